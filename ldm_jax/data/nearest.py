"""Nearest rows by inner product, with faiss.

A search is `(queries [m, d], k) -> (similarities, rows)`, both `[m, k]`, the most similar
first; where it found fewer than k, the row is -1.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

CHUNK = 65_536  # rows in memory at a time
LEAVES_PER_SEARCHED = 20  # as the reference's ScaNN trees

Search = Callable[
    [Float32[np.ndarray, "m d"], int],
    tuple[Float32[np.ndarray, "m k"], Int64[np.ndarray, "m k"]],
]


def exact(rows: Float[np.ndarray, "n d"]) -> tuple[Search, ...]:
    """One search, which compares with all rows."""
    index = _import_faiss().IndexFlatIP(rows.shape[1])
    index.add(np.ascontiguousarray(rows, np.float32))
    return (index.search,)


def write_leaves(path: Path, rows: Float[np.ndarray, "n d"]) -> None:
    """Group rows around sqrt(n) centres, kept as float16, for `read_leaves`."""
    faiss = _import_faiss()
    count, width = rows.shape
    num_leaves = round(count**0.5)
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width),
        width,
        num_leaves,
        faiss.ScalarQuantizer.QT_fp16,
        faiss.METRIC_INNER_PRODUCT,
    )
    chosen = np.random.default_rng(0).permutation(count)[: 64 * num_leaves]
    index.train(rows[np.sort(chosen)].astype(np.float32))
    for chunk in chunks(count):
        index.add(rows[chunk].astype(np.float32))
    faiss.write_index(index, str(path))


def read_leaves(path: Path, shape: tuple[int, ...]) -> Any:
    """What `write_leaves` wrote for rows of this shape.

    Raises:
      ValueError: it is missing, damaged, or of another shape.
    """
    try:
        index = _import_faiss().read_index(str(path))
    except RuntimeError as error:  # whose message is a stack of C++ calls
        raise ValueError(
            f"{path} is missing or damaged: build the index anew"
        ) from error
    if (index.ntotal, index.d) != tuple(shape):
        raise ValueError(
            f"{path} holds {index.ntotal} rows of {index.d} numbers instead of "
            f"{shape[0]} of {shape[1]}: build the index anew"
        )
    return index


def through_leaves(index: Any) -> tuple[Search, ...]:
    """Searches of a twentieth of the leaves, of twice as many, ..., of all."""
    faiss, nprobe = _import_faiss(), max(1, index.nlist // LEAVES_PER_SEARCHED)
    searches = []
    while not searches or nprobe < 2 * index.nlist:
        parameters = faiss.SearchParametersIVF(nprobe=min(nprobe, index.nlist))
        searches.append(
            lambda queries, k, p=parameters: index.search(queries, k, params=p)
        )
        nprobe *= 2
    return tuple(searches)


def chunks(count: int) -> Iterator[slice]:
    """Pieces of `range(count)`."""
    for start in range(0, count, CHUNK):
        yield slice(start, min(start + CHUNK, count))


def _import_faiss() -> Any:
    """The package, which only building and searching need: no loader imports it."""
    try:
        import faiss
    except ImportError as error:
        raise ValueError(
            "retrieval searches with faiss, which is not installed: "
            "`pip install faiss-cpu`, or ldm-jax[retrieval]"
        ) from error
    return faiss
