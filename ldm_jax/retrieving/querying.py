"""Neighbours to sample with: of a picture, of a text, of a row of the index."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8
from ml_collections import ConfigDict

from ldm_jax.data.retrieval_index import Index
from ldm_jax.evaluating.clip_scoring import EmbedTexts, text_embedder
from ldm_jax.retrieving.embedding import Embedder, embedder_of
from ldm_jax.retrieving.opening import open_index_of


@dataclass(frozen=True, eq=False)
class Retriever:
    """What a model is conditioned on, for queries: float32 `[n, k, d]` of unit length.

    In each method, `k` tokens come back, `num_tokens` if it is None: the k nearest rows
    of the index, as in training; or with `with_query=True` the query's own embedding and
    then k - 1 rows, as the original's knn2img.py does with `--use_neighbors --knn k-1`
    (and without it, with k=1).

    Attributes:
      index: what is searched.
      num_tokens: how many neighbours the model was trained with.
    """

    index: Index
    num_tokens: int

    def by_image(
        self,
        pixels: UInt8[np.ndarray, "n H W 3"],
        k: int | None = None,
        *,
        with_query: bool = False,
    ) -> Float32[np.ndarray, "n k d"]:
        """Neighbours of pictures of any size, which are cropped to their centres.

        Raises:
          FileNotFoundError, ValueError: the network that made the index is not at hand.
        """
        return self.by_embedding(
            self._embedder.pixels(pixels), k, with_query=with_query
        )

    def by_text(
        self, texts: Sequence[str], k: int | None = None, *, with_query: bool = False
    ) -> Float32[np.ndarray, "n k d"]:
        """Neighbours of texts: pictures that CLIP finds to go with them.

        Raises:
          FileNotFoundError, ValueError: the index was not made with a CLIP that has its
            text half.
        """
        return self.by_embedding(
            self._embed_texts(list(texts)), k, with_query=with_query
        )

    def by_row(
        self, rows: Sequence[int], k: int | None = None, *, with_query: bool = False
    ) -> Float32[np.ndarray, "n k d"]:
        """Neighbours of rows of the index, which do not find themselves.

        Raises:
          ValueError: there is no such row.
        """
        for row in rows:
            if not 0 <= row < self.index.meta.count:
                raise ValueError(
                    f"the index in {self.index.folder} has no row {row}: give 0 to "
                    f"{self.index.meta.count - 1}"
                )
        names = [self.index.names[row] for row in rows]
        queries = self.index.vectors(np.array(rows, np.int32))
        return self.by_embedding(queries, k, with_query=with_query, names=names)

    def by_embedding(
        self,
        queries: Float[np.ndarray, "n d"],
        k: int | None = None,
        *,
        with_query: bool = False,
        names: Sequence[str] | None = None,
    ) -> Float32[np.ndarray, "n k d"]:
        """Neighbours of unit vectors; `names` as in `Index.search`.

        Raises:
          ValueError: for k below 1, or more than there are rows.
        """
        k = self.num_tokens if k is None else k
        if with_query and k == 1:
            return queries[:, None].astype(np.float32)
        found = self.index.search(queries, k - with_query, names=names)
        neighbors = self.index.vectors(found.rows)
        if not with_query:
            return neighbors
        return np.concatenate([queries[:, None].astype(np.float32), neighbors], axis=1)

    def found(self, tokens: Float32[np.ndarray, "n k d"]) -> list[list[str]]:
        """Names of the pictures nearest to each token: of a neighbour, its own."""
        n, k, d = tokens.shape
        rows = self.index.search(tokens.reshape(n * k, d), 1).rows.reshape(n, k)
        return [[self.index.names[row] for row in of_query] for of_query in rows]

    @cached_property
    def _embedder(self) -> Embedder:
        return embedder_of(self.index)

    @cached_property
    def _embed_texts(self) -> EmbedTexts:
        meta = self.index.meta
        if meta.network != "clip":
            raise ValueError(
                f"the index in {self.index.folder} was made with {meta.network}, which "
                "reads no text: query it by a picture, or build one with clip:FOLDER"
            )
        _ = self._embedder  # the weights are those of the index
        folder = Path(meta.network_path)
        if not _has_text_half(folder):
            raise ValueError(
                f"the CLIP in {folder} has no text half to read a prompt with: query by "
                "a picture, or put a CLIPModel of transformers there (config.json and "
                "model.safetensors of both halves)"
            )
        return text_embedder(folder)


def open_retriever(
    config: ConfigDict, workdir: Path | None = None, *, folder: str = ""
) -> Retriever:
    """The retriever of a model's config.

    Args:
      workdir: where a relative path is looked for first.
      folder: another index than that of `config.data.neighbors`.

    Raises:
      FileNotFoundError, ValueError: one sentence if the model takes no neighbours, or the
        index is missing, damaged or of another width.
    """
    section = _section(config)
    index = open_index_of(config, section["embed_dim"], workdir, folder)
    return Retriever(index, int(section.get("num_tokens", 20)))


def _section(config: ConfigDict) -> ConfigDict:
    section = config.conditioner
    parts = [section, *(p for _, p in section.items() if isinstance(p, ConfigDict))]
    for part in parts:
        if part.get("name") == "precomputed":
            return part
    raise ValueError(
        "this model takes no neighbours: leave the query out, or choose a model that is "
        "retrieval-augmented"
    )


def _has_text_half(folder: Path) -> bool:
    config = folder / "config.json"
    if not config.is_file() or not (folder / "model.safetensors").is_file():
        return False
    return "text_config" in json.loads(config.read_text("utf-8"))
