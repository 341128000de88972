"""Reading the fields of a diffusers `config.json`, and refusing what we cannot compute."""

from collections.abc import Mapping, Sequence
from typing import Any


def check_fields(
    config: Mapping[str, Any], accepted: Mapping[str, Sequence[Any]], where: str
) -> None:
    """Refuse a value that our module has no counterpart for.

    Args:
      config: a component's config; fields that it leaves out have diffusers' default.
      accepted: values by field; the first is diffusers' default.
      where: the file, for the message.

    Raises:
      ValueError: names the first such field.
    """
    for field, values in accepted.items():
        value = config.get(field, values[0])
        if not any(_same(value, v) for v in values):
            raise unsupported(where, field, value, " or ".join(map(repr, values)))


def unsupported(where: str, field: str, value: Any, supported: str) -> ValueError:
    """The error for a field whose value has no counterpart here."""
    return ValueError(
        f"{where} has {field}={value!r}, which ldm_jax cannot compute: it supports "
        f"{supported} there, so this model cannot be imported"
    )


def unread_fields(config: Mapping[str, Any], known: set[str]) -> list[str]:
    """Fields with a value that nothing here looks at; metadata such as `_class_name` apart."""
    return [
        name
        for name, value in config.items()
        if not name.startswith("_") and name not in known and value is not None
    ]


def uniform(config: Mapping[str, Any], field: str, default: int, where: str) -> int:
    """A field that diffusers lets vary by level; here it is one number.

    Raises:
      ValueError: if the levels differ.
    """
    value = config.get(field, default)
    if not isinstance(value, list | tuple):
        return value
    if len(set(map(str, value))) != 1 or isinstance(value[0], list | tuple):
        raise unsupported(where, field, value, "the same number at every level")
    return value[0]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return list(a) == list(b)
    is_flag = isinstance(a, bool) or isinstance(b, bool)
    return a is b if is_flag or a is None or b is None else a == b
