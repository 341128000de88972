"""Numbers that say whether pictures follow their conditions: `(pixels, pictures) -> x`.

Each compares drawn pictures with the conditions of `pictures`, row by row; higher is
better. PSNRs are in dB.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from ldm_jax.arrays import pixels_to_image
from ldm_jax.data.retrieval_index import open_index
from ldm_jax.data.sources import open_source
from ldm_jax.retrieving.embedding import Embedder, embedder_of
from tools.tasks.held_out import HeldOut, Pixels

# A darker channel than this is drawn: white comes out of the first stage a little grey.
INK = 225


@dataclass
class Categories:
    """The categories of emoji64 by an ImageNet network: the nearest mean of its features.

    Attributes:
      folder: an index of the training pictures, whose embeddings are what is averaged.
    """

    folder: Path

    def of_pixels(self, pixels: Pixels) -> Int[np.ndarray, " n"]:
        """The likeliest category of each picture."""
        return self.of_embeddings(self._embedder.pixels(pixels))

    def of_embeddings(self, x: Float[np.ndarray, "*n d"]) -> Int[np.ndarray, "*n"]:
        """The same for unit vectors."""
        scores = x @ self._means.T - (self._means**2).sum(axis=1) / 2
        return scores.argmax(axis=-1)

    @cached_property
    def _index(self):
        return open_index(self.folder)

    @cached_property
    def _embedder(self) -> Embedder:
        return embedder_of(self._index)

    @cached_property
    def _means(self) -> Float[np.ndarray, "k d"]:
        source = open_source(self._index.meta.source, split=self._index.meta.split)
        rows = [source.annotation(i) for i in range(len(source))]
        by_name = {row["name"]: row["class_label"] for row in rows}
        labels = np.array([by_name[name] for name in self._index.names])
        x = self._index.vectors(np.arange(len(labels)))
        return np.stack([x[labels == label].mean(0) for label in np.unique(labels)])

    def accuracy(self, pixels: Pixels, pictures: HeldOut) -> float:
        """Share of pictures that look like the category asked for."""
        return float(np.mean(self.of_pixels(pixels) == pictures.labels))

    def agreement(self, pixels: Pixels, pictures: HeldOut) -> float:
        """Share of the neighbours given that look like the category of what was drawn."""
        of_neighbours = self.of_embeddings(pictures.fields["neighbors"])
        return float(np.mean(of_neighbours == self.of_pixels(pixels)[:, None]))


def ink_where_boxes_are(pixels: Pixels, pictures: HeldOut) -> float:
    """How often a quarter of a picture that has a box holds more ink than one without.

    Over all pairs of quarters of all pictures, equal ones half: 0.5 by chance.
    """
    is_drawn = pixels.min(axis=-1) < INK
    boxed = np.stack([_in_boxes(example["layout"], pixels.shape[1])
                      for example in pictures.examples])  # fmt: skip
    has_box, ink = _quarters(boxed).any(axis=-1), _quarters(is_drawn).mean(axis=-1)
    with_box, without = ink[has_box][:, None], ink[~has_box][None]
    return float(np.mean((with_box > without) + (with_box == without) / 2))


def drawn_overlap(pixels: Pixels, pictures: HeldOut) -> float:
    """Intersection over union of what is drawn and what the label map says is."""
    is_drawn = pixels.min(axis=-1) < INK
    asked = pictures.fields["segmentation"] < len(pictures.class_names)
    both = (is_drawn & asked).sum(axis=(1, 2))
    return float(np.mean(both / (is_drawn | asked).sum(axis=(1, 2))))


def low_res_psnr(pixels: Pixels, pictures: HeldOut) -> float:
    """PSNR of the pictures, made as small as the condition, to the condition."""
    low_res = pictures.fields["low_res"]
    factor = pixels.shape[1] // low_res.shape[1]
    n, height, width, _ = pixels.shape
    blocks = pixels_to_image(pixels).reshape(
        n, height // factor, factor, width // factor, factor, 3
    )
    return _psnr(blocks.mean(axis=(2, 4)), low_res)


def true_psnr(pixels: Pixels, pictures: HeldOut) -> float:
    """PSNR in dB to the held-out pictures themselves."""
    return _psnr(pixels_to_image(pixels), pixels_to_image(pictures.pixels))


def hole_psnr(pixels: Pixels, pictures: HeldOut) -> float:
    """The same, inside the holes alone."""
    is_hole = pictures.fields["hole"][..., 0] > 0
    drawn, true = pixels_to_image(pixels), pixels_to_image(pictures.pixels)
    return _psnr(drawn[is_hole], true[is_hole])


def enlarged(pictures: HeldOut) -> Pixels:
    """The low-resolution pictures enlarged by Pillow's bicubic filter."""
    small = np.rint((pictures.fields["low_res"] + 1) * 127.5).astype(np.uint8)
    size = pictures.pixels.shape[2], pictures.pixels.shape[1]
    bicubic = Image.Resampling.BICUBIC
    return np.stack(
        [np.asarray(Image.fromarray(x).resize(size, bicubic)) for x in small]
    )


def mean_filled(pictures: HeldOut) -> Pixels:
    """Holes filled with the mean colour of what is around them."""
    filled = pictures.pixels.copy()
    for picture, hole in zip(filled, pictures.fields["hole"][..., 0] > 0, strict=True):
        picture[hole] = picture[~hole].mean(axis=0).round()
    return filled


def difference(
    one: Pixels, other: Pixels, where: Bool[np.ndarray, "n h w"] | None = None
) -> float:
    """Mean absolute difference in grey levels of 255."""
    distance = np.abs(one.astype(np.float32) - other).mean(axis=-1)
    return float(distance.mean() if where is None else distance[where].mean())


def ink_colour(pixels: Pixels) -> Float[np.ndarray, "n 3"]:
    """Mean colour of what is drawn; that of the picture where nothing is."""
    rows = []
    for picture in pixels:
        is_drawn = picture.min(axis=-1) < INK
        rows.append(picture[is_drawn if is_drawn.any() else ...].reshape(-1, 3).mean(0))
    return np.stack(rows)


def _psnr(x: np.ndarray, y: np.ndarray) -> float:
    """Of values in [-1, 1], from the mean error of all."""
    return float(10 * np.log10(4 / np.mean((x - y) ** 2)))


def _quarters(x: Bool[np.ndarray, "n s s"]) -> Bool[np.ndarray, "n 4 pixels"]:
    n, side, _ = x.shape
    x = x.reshape(n, 2, side // 2, 2, side // 2).swapaxes(2, 3)
    return x.reshape(n, 4, -1)


def _in_boxes(layout, side: int) -> Bool[np.ndarray, "side side"]:
    inside = np.zeros((side, side), bool)
    for x, y, width, height in np.rint(layout.boxes * side).astype(int):
        inside[y : y + height, x : x + width] = True
    return inside
