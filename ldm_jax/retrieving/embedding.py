"""Pictures to unit vectors with a feature network, the same way for index and query."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from ldm_jax.data.pipeline import eval_batches
from ldm_jax.data.records import Source
from ldm_jax.data.retrieval_index import Index, unit
from ldm_jax.data.transforms import SquareImage
from ldm_jax.evaluation.extraction import Extract, extract_fn
from ldm_jax.features.base import FeatureNetwork
from ldm_jax.features.networks import find_network

BATCH_SIZE = 32

# Embeddings, names of the pictures, and which of them are no stand-ins.
Part = tuple[Float32[np.ndarray, "m d"], list[str], np.ndarray]


@dataclass(frozen=True)
class Patches:
    """A source whose pictures come several times, each to be cropped by chance.

    Attributes:
      source: the pictures.
      num_patches: of each; `index` counts them all, and is -1 for a stand-in.
    """

    source: Source
    num_patches: int

    @property
    def class_names(self) -> tuple[str, ...]:
        """As the source."""
        return self.source.class_names

    def __len__(self) -> int:
        return len(self.source) * self.num_patches

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        picture = index // self.num_patches
        example = self.source[picture]
        is_itself = example.get("index", picture) == picture
        return {**example, "index": index if is_itself else -1}

    def annotation(self, index: int) -> Mapping[str, Any]:
        """Of the picture that the patch is cut from."""
        return self.source.annotation(index // self.num_patches)

    def fingerprint(self) -> str:
        """As the source."""
        return self.source.fingerprint()


@dataclass(frozen=True, eq=False)
class Embedder:
    """A feature network and what is done to pictures before it.

    Attributes:
      network: whose "pool" features, divided by their length, are the embeddings.
      image_size, resize: of the square that it is given; see `SquareImage`.
    """

    network: FeatureNetwork
    image_size: int
    resize: str

    def pixels(
        self, pixels: UInt8[np.ndarray, "n H W 3"]
    ) -> Float32[np.ndarray, "n d"]:
        """Of pictures of any one size: their central squares."""
        square = SquareImage(self.image_size, self.resize)
        chance = np.random.default_rng(0)
        images = [square({"image": x}, chance)["image"] for x in np.asarray(pixels)]
        rows = [
            self._embed(np.stack(images[start : start + BATCH_SIZE]))
            for start in range(0, len(images), BATCH_SIZE)
        ]
        return np.concatenate(rows)

    def source(self, source: Source, *, num_patches: int = 1) -> Iterator[Part]:
        """Of all pictures in order; of the central square, or of random ones."""
        patches = Patches(source, num_patches)
        crop = "center" if num_patches == 1 else "random"
        square = SquareImage(self.image_size, self.resize, crop)
        start = 0
        batches = eval_batches(patches, square, batch_size=BATCH_SIZE)
        with closing(batches):
            for batch in batches:
                count = min(BATCH_SIZE, len(patches) - start)
                image, mask = batch["image"][:count], batch["mask"][:count]  # pyright: ignore[reportTypedDictNotRequiredAccess]
                indices = range(start, start + count)
                names = [patches.annotation(i)["name"] for i in indices]
                yield self._embed(image), names, mask > 0
                start += count

    def _embed(self, image: Float32[np.ndarray, "b s s 3"]) -> np.ndarray:
        pixels = np.rint((image + 1) * 127.5).astype(np.uint8)
        return unit(self._extract(pixels)["pool"])

    @cached_property
    def _extract(self) -> Extract:
        return extract_fn(self.network, BATCH_SIZE)


def parse_network(spec: str) -> tuple[str, str]:
    """`clip:FOLDER` or `efficientnet_lite0[:FILE]` to a network's name and path."""
    name, _, path = spec.partition(":")
    return name, path


def embedder_of(index: Index) -> Embedder:
    """The network that an index was made with, for new queries.

    Raises:
      FileNotFoundError, ValueError: it is not where it was, or has other weights.
    """
    meta = index.meta
    if meta.network_path and not Path(meta.network_path).exists():
        raise FileNotFoundError(
            f"the index in {index.folder} was made with the weights in "
            f"{meta.network_path}, which are not there: put them back, or write where "
            f"they are into its meta.json as network_path"
        )
    network = find_network(meta.network, meta.network_path or None)
    if network.weights_sha256 != meta.weights_sha256:
        raise ValueError(
            f"the index in {index.folder} was made with other weights of {meta.network} "
            f"(sha256 {meta.weights_sha256[:8]}..., found {network.weights_sha256[:8]}..."
            "): build it anew or restore those"
        )
    return Embedder(network, meta.image_size, meta.resize)
