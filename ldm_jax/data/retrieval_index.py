"""A folder of embeddings of pictures, and which of them are nearest to a query.

    embeddings.npy  float16 [n, d], each of unit length
    names.json      n names of pictures; patches of one picture share its name
    meta.json       `IndexMeta`
    index.faiss     from `EXACT_BELOW` rows on: below, all of them are compared

Similarity is the inner product, which for unit vectors is the cosine.
"""

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32

from ldm_jax.data import nearest
from ldm_jax.data.npy import open_npy

# The reference's rule of thumb (train_searcher.py).
EXACT_BELOW = 20_000
# Larger embeddings are only compared with meta.json by their shape.
CHECKED_BYTES = 2**28
_QUERIES = 1024  # searched at a time: never by the caller, so that tables do not vary


@dataclasses.dataclass(frozen=True)
class IndexMeta:
    """Where the embeddings of an index come from.

    Attributes:
      source, split, fingerprint: of the pictures, as `open_source` takes and gives them.
      network: name of the feature network.
      network_path: of its weights; "" if they were found without one.
      weights_sha256: of these.
      preprocessing: what the network does to pixels, in words.
      image_size, resize, num_patches: what was done before: see `SquareImage`; with
        several patches to a picture, their crops are random.
      count, embed_dim: n and d.
      embeddings_sha256: of the array.
    """

    source: str
    split: str
    fingerprint: str
    network: str
    network_path: str
    weights_sha256: str
    preprocessing: str
    image_size: int
    resize: str
    num_patches: int = 1
    count: int = 0
    embed_dim: int = 0
    embeddings_sha256: str = ""


class Found(NamedTuple):
    """Rows of an index, the most similar first, and their cosines with the query."""

    rows: Int32[np.ndarray, "m k"]
    similarity: Float32[np.ndarray, "m k"]


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """Embeddings that can be searched; made by `open_index`.

    Attributes:
      folder: see the module.
      meta: where the embeddings come from.
      names: of the picture in each row.
    """

    folder: Path
    meta: IndexMeta
    names: tuple[str, ...]

    @cached_property
    def embeddings(self) -> Float[np.ndarray, "n d"]:
        """All of them, memory-mapped."""
        return open_npy(self.folder / "embeddings.npy")

    def vectors(self, rows: Int32[np.ndarray, "*n"]) -> Float32[np.ndarray, "*n d"]:
        """The embeddings in `rows`."""
        return self.embeddings[rows].astype(np.float32)

    def search(
        self,
        queries: Float[np.ndarray, "m d"],
        k: int,
        *,
        names: Sequence[str] | None = None,
    ) -> Found:
        """The k most similar rows to each query of unit length.

        Args:
          names: of the query pictures, if they are pictures: no query finds rows of its
            own name, which would be the picture itself where the index was made of the
            source that is trained on.

        Raises:
          ValueError: if fewer than k rows are left, or the queries have another width.
        """
        if queries.ndim != 2 or queries.shape[1] != self.meta.embed_dim:
            raise ValueError(
                f"queries of shape {queries.shape} do not fit the index in {self.folder}, "
                f"whose embeddings have {self.meta.embed_dim} numbers: embed them with "
                f"{self.meta.network}"
            )
        own = None if names is None else [self._ids.get(name, -1) for name in names]
        # Of each picture, or of no picture, as many rows as the largest has.
        spare = 0 if names is None else max(self._rows_per_name.values())
        if k < 1 or k + spare > self.meta.count:
            raise ValueError(
                f"the index in {self.folder} has {self.meta.count} rows, which do not "
                f"leave {k} neighbours beside {spare} of the picture itself: build it "
                "from more pictures or ask for fewer neighbours"
            )
        parts = []
        for start in range(0, len(queries), _QUERIES):
            part = slice(start, start + _QUERIES)
            parts.append(
                self._search(
                    queries[part], k, spare, None if own is None else own[part]
                )
            )
        return Found(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _search(
        self, queries: np.ndarray, k: int, spare: int, own: list[int] | None
    ) -> Found:
        queries = np.ascontiguousarray(queries, np.float32)
        for search in self._searches:
            similarity, rows = search(queries, k + spare)
            is_left_out = rows < 0  # the leaves that were looked at held no more
            if own is not None:
                is_left_out |= self._row_ids[rows] == np.array(own)[:, None]
            if (np.sum(~is_left_out, axis=1) >= k).all():
                break
        order = np.argsort(is_left_out, axis=1, kind="stable")[:, :k]
        rows = np.take_along_axis(rows, order, axis=1).astype(np.int32)
        return Found(rows, np.take_along_axis(similarity, order, axis=1))

    @cached_property
    def _searches(self) -> tuple[nearest.Search, ...]:
        """From the fastest to the most thorough."""
        if self.meta.count < EXACT_BELOW:
            return nearest.exact(self.embeddings)
        leaves = nearest.read_leaves(self.folder / "index.faiss", self.embeddings.shape)
        return nearest.through_leaves(leaves)

    @cached_property
    def _rows_per_name(self) -> Counter[str]:
        return Counter(self.names)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self._rows_per_name)}

    @cached_property
    def _row_ids(self) -> Int32[np.ndarray, " n"]:
        return np.array([self._ids[name] for name in self.names], np.int32)


def open_index(folder: Path | str) -> Index:
    """The index in `folder`.

    Raises:
      FileNotFoundError: there is none.
      ValueError: a file is damaged, or does not belong to the others.
    """
    folder = Path(folder)
    if not (folder / "meta.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no retrieval index: give the --output of "
            "tools/build_retrieval_index.py"
        )
    try:
        meta = IndexMeta(**json.loads((folder / "meta.json").read_text("utf-8")))
        names = tuple(json.loads((folder / "names.json").read_text("utf-8")))
        index = Index(folder, meta, names)
        shape, dtype = index.embeddings.shape, index.embeddings.dtype
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the retrieval index in {folder} is damaged ({reason}): build it anew"
        ) from error
    if shape != (meta.count, meta.embed_dim) or dtype != np.float16:
        raise _mixed(folder, f"embeddings.npy is {dtype} {list(shape)}")
    if len(names) != meta.count:
        raise _mixed(folder, f"names.json has {len(names)} names")
    is_small = index.embeddings.nbytes <= CHECKED_BYTES
    if is_small and _sha256(index.embeddings) != meta.embeddings_sha256:
        raise _mixed(folder, "embeddings.npy has another checksum")
    return index


def write_index(
    folder: Path,
    parts: Iterable[tuple[Float32[np.ndarray, "m d"], Sequence[str]]],
    meta: IndexMeta,
    *,
    max_count: int,
) -> Index:
    """Write embeddings, which are brought to unit length, and open them.

    Args:
      folder: exists; the caller removes it if this fails.
      parts: embeddings, and the name of the picture of each.
      meta: without `count`, `embed_dim` and the checksum, which are filled in.
      max_count: no more embeddings than that.

    Raises:
      ValueError: for embeddings that are zero or not finite, none at all, or a disk that
        is too small.
    """
    rows, names = _write_rows(folder, parts, max_count)
    if not names:
        raise ValueError(f"{meta.source} gave no embedding: give one with pictures")
    if len(names) >= EXACT_BELOW:
        nearest.write_leaves(folder / "index.faiss", rows)
    (folder / "names.json").write_text(json.dumps(names), "utf-8")
    meta = dataclasses.replace(
        meta,
        count=len(names),
        embed_dim=rows.shape[1],
        embeddings_sha256=_sha256(rows),
    )
    text = json.dumps(dataclasses.asdict(meta), indent=2) + "\n"
    (folder / "meta.json").write_text(text, "utf-8")
    return open_index(folder)


def unit(x: Float[np.ndarray, "m d"]) -> Float32[np.ndarray, "m d"]:
    """Rows divided by their length.

    Raises:
      ValueError: if one is zero or not finite.
    """
    length = np.linalg.norm(x.astype(np.float32), axis=1, keepdims=True)
    if not np.all(np.isfinite(length) & (length > 0)):
        raise ValueError(
            "an embedding is zero or not finite: check the feature network's weights"
        )
    return (x / length).astype(np.float32)


def _write_rows(
    folder: Path,
    parts: Iterable[tuple[Float32[np.ndarray, "m d"], Sequence[str]]],
    max_count: int,
) -> tuple[Float[np.ndarray, "n d"], list[str]]:
    """embeddings.npy and the names."""
    path, names = folder / "embeddings.npy", []
    rows = np.zeros((0, 0), np.float16)
    for embeddings, part_names in parts:
        if not names:
            rows = _allocate(path, max_count, embeddings.shape[1])
        rows[len(names) : len(names) + len(embeddings)] = unit(embeddings)
        names += part_names
    if 0 < len(names) < max_count:  # unreadable pictures have no row
        longer = folder / "longer.npy"
        path.replace(longer)
        shorter = _allocate(path, len(names), rows.shape[1])
        for chunk in nearest.chunks(len(names)):
            shorter[chunk] = rows[chunk]
        longer.unlink()
        rows = shorter
    if isinstance(rows, np.memmap):
        rows.flush()
    return rows, names


def _mixed(folder: Path, what: str) -> ValueError:
    return ValueError(
        f"the retrieval index in {folder} is damaged: {what}, which is not what meta.json "
        "says; build it anew"
    )


def _sha256(embeddings: Float[np.ndarray, "n d"]) -> str:
    digest = hashlib.sha256()
    for chunk in nearest.chunks(len(embeddings)):
        digest.update(np.ascontiguousarray(embeddings[chunk]).data)
    return digest.hexdigest()


def _allocate(path: Path, count: int, embed_dim: int) -> np.memmap:
    size, free = 2 * count * embed_dim, shutil.disk_usage(path.parent).free
    if size > free:
        raise ValueError(
            f"the embeddings need {size / 1e9:.1f} GB and {path.parent} has "
            f"{free / 1e9:.1f} GB free: make room"
        )
    shape = (count, embed_dim)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
