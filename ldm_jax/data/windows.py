"""Rectangles of a picture, sampled to squares of another size."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image

_FILTERS = Image.Resampling


class Window(NamedTuple):
    """A rectangle of the source picture, in its pixels, to be sampled to the output."""

    left: float
    top: float
    width: float
    height: float

    def relative_to(self, height: int, width: int) -> Float32[np.ndarray, "4"]:
        """(left, top, right, bottom) as shares of a picture of this size."""
        right, bottom = self.left + self.width, self.top + self.height
        corners = self.left / width, self.top / height, right / width, bottom / height
        return np.clip(np.array(corners, np.float32), 0, 1)


def sample_pixels(
    pixels: UInt8[np.ndarray, "h w 3"], window: Window, size: int, resize: str
) -> UInt8[np.ndarray, "size size 3"]:
    """A window as a square; `resize` as in `SquareImage`.

    Only the window is ever resized: a 20000x1 strip costs no more than a square.
    """
    left, top, width, height = window
    if (width, height) == (size, size) and left == int(left) and top == int(top):
        return pixels[int(top) : int(top) + size, int(left) : int(left) + size]
    if resize == "area":
        cut = pixels[int(top) : int(top + height), int(left) : int(left + width)]
        return area_means(cut, size)
    image = Image.fromarray(pixels)
    box = (left, top, min(left + width, image.width), min(top + height, image.height))
    if resize == "square_bicubic":
        return np.asarray(image.crop(box).resize((size, size), _FILTERS.BICUBIC))
    if resize == "smallest_antialias":
        return np.asarray(image.resize((size, size), _FILTERS.BILINEAR, box))
    coefficients = (width / size, 0, left, 0, height / size, top)
    affine = Image.Transform.AFFINE
    return np.asarray(
        image.transform((size, size), affine, coefficients, _FILTERS.BILINEAR)
    )


def sample_labels(
    labels: Int32[np.ndarray, "h w"], window: Window, size: int
) -> Int32[np.ndarray, "size size"]:
    """The label under the middle of each new pixel of the same window."""
    middle = (np.arange(size) + 0.5) / size
    rows = (window.top + middle * window.height).astype(int)
    columns = (window.left + middle * window.width).astype(int)
    rows = np.minimum(rows, labels.shape[0] - 1)
    return labels[rows][:, np.minimum(columns, labels.shape[1] - 1)].astype(np.int32)


def area_means(
    pixels: UInt8[np.ndarray, "h w 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Means over the rectangles that the new pixels cover: OpenCV's INTER_AREA."""
    values = pixels.astype(np.float64)
    for axis in (0, 1):
        values = np.moveaxis(values, axis, 0)
        edges = np.arange(size + 1) * (len(values) / size)
        low = np.minimum(edges.astype(int), len(values) - 1)
        sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
        up_to_edges = sums[low] + (edges - low)[:, None, None] * values[low]
        values = np.diff(up_to_edges, axis=0) * (size / len(values))
        values = np.moveaxis(values, 0, axis)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
