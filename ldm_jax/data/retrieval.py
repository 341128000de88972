"""Neighbours of training pictures, looked up in tables that were made beforehand.

A loader's workers read two arrays and search nothing: which rows of the index are the
neighbours of each picture (`write_neighbor_table`), and the embeddings in these rows.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int32

from ldm_jax.data.npy import open_npy
from ldm_jax.data.retrieval_index import Index


@dataclass(frozen=True)
class LookUpNeighbors:
    """Adds `neighbors`, float32 `[k, d]`: embeddings of the picture's neighbours.

    The nearest comes first; all have unit length, to float16's precision. Draws no numbers;
    works on whatever has the source's `index`, pictures and cached latents alike.

    Attributes:
      embeddings: an index's embeddings.npy.
      table: int32 [number of pictures, k], rows of the former.
    """

    embeddings: Path
    table: Path

    def __call__(
        self, example: Mapping[str, Any], generator: np.random.Generator
    ) -> dict[str, Any]:
        del generator
        rows = self._table[int(example["index"])]
        return {**example, "neighbors": self._embeddings[rows].astype(np.float32)}

    @cached_property
    def _embeddings(self) -> Float[np.ndarray, "n d"]:
        return open_npy(self.embeddings)

    @cached_property
    def _table(self) -> Int32[np.ndarray, "m k"]:
        return open_npy(self.table)

    def __getstate__(self) -> dict[str, Any]:
        return {"embeddings": self.embeddings, "table": self.table}


def write_neighbor_table(
    path: Path,
    index: Index,
    queries: Float[np.ndarray, "m d"],
    names: Sequence[str],
    k: int,
) -> None:
    """The rows of each picture's k neighbours, none of its own name, whole or not at all.

    Args:
      path: of an .npy, int32 [m, k]; its folder exists.
      queries: the pictures' embeddings, of unit length.
      names: the pictures' names: see `Index.search`.

    Raises:
      ValueError: if the index has too few rows.
    """
    rows = index.search(queries, k, names=names).rows
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            np.save(file, rows)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def open_neighbor_table(path: Path, num_pictures: int, k: int) -> bool:
    """Whether `path` holds a whole table of this size."""
    try:
        table = open_npy(path)
    except (OSError, ValueError, EOFError):
        return False
    return table.shape == (num_pictures, k) and table.dtype == np.int32
