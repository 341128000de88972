"""Tensors that stay in their file until they are read."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Storage:
    """A run of bytes in a file, which tensors are views of.

    Attributes:
      path: the file.
      nbytes: its length.
      offset: where in the file it starts (old torch files say it last).
      crc: CRC-32 of the bytes; 0 where the file has none.
    """

    path: Path
    nbytes: int
    offset: int = 0
    crc: int = 0


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's type, shape and place; `read` fetches it and keeps nothing.

    Attributes:
      storage: the bytes that it is a view of.
      dtype: type of the elements, little-endian.
      shape: sizes.
      offset: where in the storage it starts, in elements.
      strides: steps, in elements; None for row-major.

    Raises:
      ValueError: the tensor would reach outside its storage, or have more elements.
    """

    storage: Storage
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int = 0
    strides: tuple[int, ...] | None = None

    def __post_init__(self):
        numbers = [self.offset, *self.shape, *(self.strides or ())]
        if not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
            raise ValueError("a tensor has a shape that makes no sense")
        if len(self.shape) > 32 or math.prod(max(n, 1) for n in self.shape) >= 2**62:
            raise ValueError("a tensor has a shape that makes no sense")
        if self.strides is not None and len(self.strides) != len(self.shape):
            raise ValueError("a tensor has a shape that makes no sense")
        if self.size == 0:
            return
        end = (self.offset + self._span) * self.dtype.itemsize
        if end > self.storage.nbytes:
            raise ValueError("a tensor reaches outside its storage")
        if self.size * self.dtype.itemsize > self.storage.nbytes:
            raise ValueError("a tensor is larger than its storage")

    @cached_property
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

    @cached_property
    def _span(self) -> int:
        """Elements between the first and the last, both included."""
        strides = self.strides or row_major(self.shape)
        steps = zip(self.shape, strides, strict=True)
        return 1 + sum((n - 1) * stride for n, stride in steps)

    def read(self) -> np.ndarray:
        """The tensor, row-major, from disk.

        Raises:
          OSError: the file is gone.
          ValueError: it is shorter than it was, or its checksum is wrong.
        """
        if self.size == 0:
            return np.empty(self.shape, self.dtype)
        flat = np.empty(self._span, self.dtype)
        raw = flat.view(np.uint8)
        with self.storage.path.open("rb") as file:
            file.seek(self.storage.offset + self.offset * self.dtype.itemsize)
            if file.readinto(raw.data) != raw.size:
                raise ValueError(f"{self.storage.path} is cut short: get it again")
        self._check(raw)
        if self.dtype == np.bool_:
            flat = raw != 0  # a damaged file can hold bytes that are neither
        if self.strides is None or _is_row_major(self.shape, self.strides):
            return flat.reshape(self.shape)
        steps = [stride * self.dtype.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.shape, steps).copy()

    def _check(self, raw: np.ndarray) -> None:
        whole = raw.size == self.storage.nbytes
        if whole and self.storage.crc and zlib.crc32(raw.data) != self.storage.crc:
            raise ValueError(
                f"{self.storage.path} is damaged (a checksum is wrong at byte "
                f"{self.storage.offset}): get it again"
            )


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a row-major array, in elements."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return tuple(strides)


def _is_row_major(shape: Sequence[int], strides: Sequence[int]) -> bool:
    steps = zip(shape, strides, row_major(shape), strict=True)
    return all(n == 1 or stride == expected for n, stride, expected in steps)
