"""Conditions as pictures to look at: what previews show of a batch."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int32, UInt8
from ml_collections import ConfigDict
from PIL import Image

from ldm_jax import build_conditioner
from ldm_jax.data.layouts import cropped, decode_tokens, draw_layout

_TURN = 0.618034  # of the colour wheel between two labels: never the same again


def condition_pictures(
    config: ConfigDict,
    batch: Mapping[str, np.ndarray],
    class_names: Sequence[str] = (),
) -> UInt8[np.ndarray, "b H W 3"] | None:
    """What the model of `config` is told of each picture, if that is a picture.

    The low-resolution picture enlarged, the picture with its hole, the label map in
    colours, the layout as boxes; None for texts, classes and neighbours.

    Args:
      batch: `image` [b, H, W, 3], and the fields that the conditioner reads.
      class_names: of the source.
    """
    side = batch["image"].shape[1]
    if "tokens" in batch and build_conditioner.reads_layouts(config) and class_names:
        vocabulary = build_conditioner.layout_tokenizer(config, len(class_names))
        layouts = (cropped(*decode_tokens(row, vocabulary)) for row in batch["tokens"])
        return np.stack([draw_layout(layout, side, class_names) for layout in layouts])
    if "low_res" in batch:
        return _enlarged(_pixels(batch["low_res"]), side)
    if "masked_image" in batch:
        return _pixels(batch["masked_image"])
    if "segmentation" in batch:
        return colour_labels(np.asarray(batch["segmentation"]))
    return None


def colour_labels(labels: Int32[np.ndarray, "*b h w"]) -> UInt8[np.ndarray, "*b h w 3"]:
    """A colour for each label, the same in every picture; 255 and negatives are black."""
    hue = (labels * _TURN) % 1.0
    saturation = np.where(labels % 2, 0.55, 0.85)
    sector = (hue[..., None] * 6 + np.array([0, 4, 2])) % 6
    channels = np.clip(np.abs(sector - 3) - 1, 0, 1)
    colours = 1 - saturation[..., None] * (1 - channels)
    colours *= ((labels >= 0) & (labels != 255))[..., None]
    return np.rint(255 * colours).astype(np.uint8)


def _pixels(image: np.ndarray) -> UInt8[np.ndarray, "b h w 3"]:
    return np.rint((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8)


def _enlarged(
    pixels: UInt8[np.ndarray, "b h w 3"], side: int
) -> UInt8[np.ndarray, "b H W 3"]:
    size, nearest = (side, side), Image.Resampling.NEAREST
    resized = [Image.fromarray(picture).resize(size, nearest) for picture in pixels]
    return np.stack([np.asarray(picture) for picture in resized])
