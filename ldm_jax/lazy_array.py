"""Arrays that are read from their file each time they are asked for, and not kept.

A tree of them describes a checkpoint of any size in no memory; what writes it reads one
array after the other.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """An array of known shape and dtype, a leaf of parameter trees.

    Attributes:
      shape: of what `read` returns.
      dtype: of what `read` returns.
      read: loads the array; nothing holds on to it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the array once it is read."""
        return self.size * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # what `read` returns is nobody else's
        return np.asarray(self.read(), dtype)


def read_array(value: Any) -> np.ndarray:
    """The array behind a leaf: what its `read` returns, or itself if it is none such."""
    return value.read() if hasattr(value, "read") else np.asarray(value)
