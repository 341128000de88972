"""The names and types of what flows from a source to a training step."""

from typing import Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import Float32, Int32, UInt8


class Example(TypedDict):
    """One picture as a source gives it, before any transform.

    Attributes:
      image: RGB pixels.
      index: the source's own index of this picture; it differs from the one asked for
        where an unreadable picture was replaced by its successor.
      name: file or record name, unique within the source.
      caption, class_label: there for every picture of a source, or for none.
      segmentation: a class for every pixel; any value outside 0..n-1 is no class.
      layout: the objects in the picture, a `ldm_jax.data.layouts.Layout`.
      subcategory, style: emoji64 only.
    """

    image: UInt8[np.ndarray, "h w 3"]
    index: int
    name: str
    caption: NotRequired[str]
    class_label: NotRequired[int]
    segmentation: NotRequired[Int32[np.ndarray, "h w"]]
    layout: NotRequired[Any]
    subcategory: NotRequired[str]
    style: NotRequired[str]


class Batch(TypedDict, total=False):
    """What a loader yields: numeric arrays only, first axis the batch.

    Attributes:
      image: in [-1, 1].
      moments: a cached latent's moments, in place of `image`.
      class_label: index into the source's `class_names`.
      tokens: ids of the caption, or of a layout.
      low_res: a small version of the picture, in [-1, 1], as large as its latent.
      segmentation: a class for every pixel.
      masked_image, hole: the picture with a hole (-1 there for LDM, 0 for Stable
        Diffusion), and 1 where the hole is.
      neighbors: embeddings of retrieved pictures.
      geometry: (height, width) of the source picture, (top, left) of the crop in its
        pixels, (height, width) of the result.
      crop_box: (left, top, right, bottom) of what is shown, as shares of the source
        picture before it was mirrored.
      original_size: (height, width) of the source picture.
      flip: 1 where the picture was mirrored; only with a flip rate above zero.
      index: which pictures of the source these are.
      mask: 1 for a row to count, 0 for padding; only in evaluation.
    """

    image: Float32[np.ndarray, "b H W 3"]
    moments: Float32[np.ndarray, "b h w c"]
    class_label: Int32[np.ndarray, " b"]
    tokens: Int32[np.ndarray, "b l"]
    low_res: Float32[np.ndarray, "b h w 3"]
    segmentation: Int32[np.ndarray, "b H W"]
    masked_image: Float32[np.ndarray, "b H W 3"]
    hole: Float32[np.ndarray, "b H W 1"]
    neighbors: Float32[np.ndarray, "b k d"]
    geometry: Int32[np.ndarray, "b 6"]
    crop_box: Float32[np.ndarray, "b 4"]
    original_size: Int32[np.ndarray, "b 2"]
    flip: Int32[np.ndarray, " b"]
    index: Int32[np.ndarray, " b"]
    mask: Float32[np.ndarray, " b"]
