"""What a pickle may build: the words that the machine and its tables share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FindGlobal = Callable[[str, str], Any]


class UnsafePickleError(ValueError):
    """A pickle names a callable that the reader does not allow."""


class BrokenPickleError(ValueError):
    """A pickle is cut short or makes no sense; the message says where, not which file."""


@dataclass(frozen=True, eq=False)
class Builder:
    """An allowed callable: the only thing that a pickle can call.

    Attributes:
      build: what REDUCE and NEWOBJ call with the arguments in the file.
    """

    build: Callable[..., Any]


class Inert:
    """Stands for an object whose class we do not want: takes no state, runs nothing."""

    __slots__ = ()


INERT = Builder(lambda *_: Inert())
