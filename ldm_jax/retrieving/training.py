"""Neighbours of training and validation pictures, found once and kept in the workdir."""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float32
from ml_collections import ConfigDict

from ldm_jax.conditioners import Precomputed
from ldm_jax.data.latent_cache import cache_key
from ldm_jax.data.records import Source
from ldm_jax.data.retrieval import (
    LookUpNeighbors,
    open_neighbor_table,
    write_neighbor_table,
)
from ldm_jax.data.retrieval_index import Index
from ldm_jax.evaluating.picture_stream import shown
from ldm_jax.retrieving.embedding import embedder_of
from ldm_jax.retrieving.opening import open_index_of

logger = logging.getLogger(__name__)


def look_up_neighbors(
    config: ConfigDict, conditioner: Any, source: Source, workdir: Path | None = None
) -> LookUpNeighbors:
    """The transform that gives pictures of `source` their neighbours.

    The neighbours of a picture are the `conditioner.num_tokens` most similar rows of the
    index that are not of its own name; the paper's database shares no picture with the
    training set. What is compared is the central square, whatever crop is trained on. The
    table is made on first use (all pictures are embedded, unless the index was made of this
    very source) and kept in `workdir/neighbors`, or in the index without a workdir.
    Every process must call this; the first one works.

    Args:
      conditioner: a `Precomputed`, or what has one among its `parts`.
      workdir: where a relative path of the index is looked for first.

    Raises:
      FileNotFoundError, ValueError: see `open_index_of`; or the feature network is not the
        one that made the index, or the index has too few rows.
    """
    part = _reader(conditioner)
    index, k = open_index_of(config, part.embed_dim, workdir), part.num_tokens
    key = cache_key(
        index=index.meta.embeddings_sha256, source=source.fingerprint(), num_tokens=k
    )
    folder = (workdir or index.folder) / "neighbors"
    table = folder / f"{key[:16]}.npy"
    is_there = open_neighbor_table(table, len(source), k)
    if not is_there and jax.process_index() == 0:
        names = [source.annotation(i)["name"] for i in range(len(source))]
        queries = _embeddings(index, source, names)
        folder.mkdir(parents=True, exist_ok=True)
        write_neighbor_table(table, index, queries, names, k)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"the neighbours {key[:16]} are written")
    if not is_there and not open_neighbor_table(table, len(source), k):
        raise ValueError(
            f"{table} is not there although the first process wrote it: give a --workdir "
            "on a disk that all processes share"
        )
    return LookUpNeighbors(index.folder / "embeddings.npy", table)


def _reader(conditioner: Any) -> Precomputed:
    parts = (conditioner, *getattr(conditioner, "parts", ()))
    return next(part for part in parts if isinstance(part, Precomputed))


def _embeddings(
    index: Index, source: Source, names: list[str]
) -> Float32[np.ndarray, "m d"]:
    """Of all pictures of a source; from the index if it was made of them."""
    if index.meta.fingerprint == source.fingerprint() and index.meta.num_patches == 1:
        rows = {name: row for row, name in enumerate(index.names)}
        # A picture that could not be read has no row, and none will ask for its own.
        return index.vectors(np.array([rows.get(name, 0) for name in names]))
    logger.info("looking for the neighbours of %d pictures", len(source))
    parts = (rows for rows, _, _ in embedder_of(index).source(source))
    return np.concatenate(list(shown(parts, len(source), "embedding")))
