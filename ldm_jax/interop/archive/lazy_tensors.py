"""A state dict that stays on disk."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np


class TensorInfo(NamedTuple):
    """What is known of a tensor without reading it."""

    dtype: np.dtype
    shape: tuple[int, ...]


class LazyTensor(Protocol):
    """A tensor that knows its type and shape and is read on demand.

    `stored_tensor.StoredTensor` and `lazy_array.LazyArray` are such.
    """

    @property
    def dtype(self) -> np.dtype:
        """Type of what `read` returns."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what `read` returns."""
        ...

    def read(self) -> np.ndarray:
        """The tensor, which nothing else holds on to."""
        ...


class LazyTensors(Mapping[str, np.ndarray]):
    """Name -> tensor; each `[name]` reads the tensor from its file and keeps nothing."""

    def __init__(self, entries: Mapping[str, Any]):
        self.entries: dict[str, LazyTensor] = dict(entries)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.entries[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def info(self, name: str) -> TensorInfo:
        """dtype and shape of one tensor, without reading it."""
        entry = self.entries[name]
        return TensorInfo(np.dtype(entry.dtype), tuple(entry.shape))

    def under(self, prefix: str) -> "LazyTensors":
        """The tensors whose names start with `prefix`, which is cut off."""
        return LazyTensors(
            {
                name.removeprefix(prefix): entry
                for name, entry in self.entries.items()
                if name.startswith(prefix)
            }
        )


def count_nonfinite(array: np.ndarray) -> int:
    """How many elements are infinite or no number; integers have none.

    Works in pieces, so that it needs no memory in proportion to the array.
    """
    flat = np.asarray(array).reshape(-1)
    if flat.dtype.kind in "biu":
        return 0
    piece = 1 << 20
    starts = range(0, flat.size, piece)
    finite = sum(int(np.isfinite(flat[at : at + piece]).sum()) for at in starts)
    return flat.size - finite
