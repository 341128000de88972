"""One section of a config to one object: `TABLE[section["name"]](**its other fields)`."""

from collections.abc import Mapping
from typing import Any


def look_up(table: Mapping[str, Any], name: str, field: str) -> Any:
    """`table[name]`, or a ValueError that says what `config.<field>` may be."""
    if name not in table:
        raise ValueError(
            f"config.{field} is {name!r}: choose one of {', '.join(table)}"
        )
    return table[name]


def from_table(
    table: Mapping[str, Any], section: Mapping[str, Any], where: str, **derived: Any
) -> Any:
    """The object that `config.<where>` describes; `derived` are further arguments.

    Raises:
      ValueError: an unknown name or field, with those there are.
    """
    fields = dict(section)
    constructor = look_up(table, fields.pop("name"), f"{where}.name")
    return call(constructor, fields, where, **derived)


def call(
    constructor: Any, fields: Mapping[str, Any], where: str, **derived: Any
) -> Any:
    """`constructor(**fields, **derived)`; a field that it does not take is a ValueError."""
    values = {name: frozen_value(value) for name, value in fields.items()}
    try:
        return constructor(**values, **derived)
    except TypeError as error:
        raise ValueError(
            f"config.{where} does not fit {constructor.__name__}: {error}"
        ) from error


def frozen_value(value: Any) -> Any:
    """Lists, which JSON makes of tuples, back to tuples: modules must be hashable."""
    return tuple(value) if isinstance(value, list | tuple) else value
