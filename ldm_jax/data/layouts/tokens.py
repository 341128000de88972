"""The tokens that the layout model reads of a layout.

An object is three tokens (class, top left corner, bottom right corner); thirty objects,
of which the missing ones are "none", and two corners of the crop make the 92 tokens of
LDM's layout-to-image model (Rombach et al. 2022, table 15; the coding is that of
taming-transformers).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from ldm_jax.data.layouts.boxes import (
    FLAGS,
    WHOLE,
    CropBox,
    Layout,
    cropped,
    is_in,
    mirrored,
)

# A number beyond this is a mistake, and its tokens might fill the memory.
MAX_OBJECTS = 10_000


@dataclass(frozen=True)
class LayoutVocabulary:
    """How a layout is spelled; the defaults are the published model's.

    A corner is `round(y * (s - 1)) * s + round(x * (s - 1))` with s the whole part of
    sqrt(vocab_size), 90 of 8192; a class is `class + num_classes * (1 group + 2 occluded
    + 4 depiction + 8 inside)`; the last id stands for no object.

    Attributes:
      num_classes: of the source.
      max_objects: rows of three tokens, `MAX_OBJECTS` at most.
      vocab_size: number of ids.
      encode_crop: boxes in coordinates of the whole picture, and two more tokens for
        the corners of the crop; False: boxes in coordinates of the crop, cut off at its
        border.
      flags: which of an object's flags its class token tells; (`is_group`,) for COCO,
        () for none. They keep their value whichever are left out.

    Raises:
      ValueError: if there are more class tokens than ids, or too many objects or none.
    """

    num_classes: int
    max_objects: int = 30
    vocab_size: int = 8192
    encode_crop: bool = True
    flags: tuple[str, ...] = FLAGS

    def __post_init__(self) -> None:
        if unknown := set(self.flags) - set(FLAGS):
            raise ValueError(f"tokenizer.flags has {min(unknown)!r}: choose of {FLAGS}")
        if self.num_classes < 1 or not 1 <= self.max_objects <= MAX_OBJECTS:
            raise ValueError(
                f"there is no layout of {self.max_objects} objects of {self.num_classes} "
                "classes: give a source with classes, and max_objects from 1 to "
                f"{MAX_OBJECTS}"
            )
        highest = sum(2**bit for bit, flag in enumerate(FLAGS) if flag in self.flags)
        needed = self.num_classes * (highest + 1) + 1
        if needed > self.vocab_size:
            raise ValueError(
                f"{self.num_classes} classes with the flags {self.flags} need a layout "
                f"vocabulary of {needed} ids, but conditioner.vocab_size is "
                f"{self.vocab_size}: raise it, or leave flags out of tokenizer.flags"
            )

    @property
    def none_token(self) -> int:
        """The id that stands for no object: the last."""
        return self.vocab_size - 1

    @property
    def num_sections(self) -> int:
        """Positions along each side of the picture."""
        return math.isqrt(self.vocab_size)

    @property
    def max_length(self) -> int:
        """Tokens of every layout: 92 in the published model."""
        return 3 * self.max_objects + 2 * self.encode_crop

    def empty_tokens(self) -> Int32[np.ndarray, " l"]:
        """The whole picture without objects: what guidance leaves of a layout."""
        return layout_tokens(Layout(np.zeros((0, 4)), np.zeros(0)), self)


@dataclass(frozen=True)
class TokenizeLayout(LayoutVocabulary):
    """Adds `tokens`, int32 `[max_length]`, from `layout`; goes after `SquareImage`.

    The objects that the crop shows, in random order and at most `max_objects` of them;
    where the picture was mirrored, so are the boxes and the crop.

    Attributes:
      min_object_area: smaller objects, as shares of the whole picture, are left out;
        1e-4 in the reference.
    """

    min_object_area: float = 0.0

    def __call__(
        self, example: Mapping[str, Any], generator: np.random.Generator
    ) -> dict[str, Any]:
        layout, crop_box = example["layout"], np.asarray(example["crop_box"])
        layout = layout.take(generator.permutation(layout.num_objects))
        area = layout.boxes[:, 2] * layout.boxes[:, 3]
        layout = layout.take(is_in(layout, crop_box) & (area >= self.min_object_area))
        layout = layout.take(np.arange(layout.num_objects) < self.max_objects)
        if example.get("flip", 0):
            layout, crop_box = mirrored(layout, crop_box)
        return {**example, "tokens": layout_tokens(layout, self, crop_box)}


def layout_tokens(
    layout: Layout, vocabulary: LayoutVocabulary, crop_box: CropBox = WHOLE
) -> Int32[np.ndarray, " l"]:
    """Tokens of a layout in its own order; pure.

    Args:
      layout: in coordinates of the whole picture.
      vocabulary: how to spell it.
      crop_box: left, top, right and bottom of what the model is to draw.

    Raises:
      ValueError: for too many objects, or a class that the vocabulary does not have.
    """
    if layout.num_objects > vocabulary.max_objects:
        raise ValueError(
            f"the layout has {layout.num_objects} objects and the model reads "
            f"{vocabulary.max_objects}: leave some out"
        )
    outside = (layout.classes < 0) | (layout.classes >= vocabulary.num_classes)
    if outside.any():
        raise ValueError(
            f"the layout has an object of class {layout.classes[outside][0]}, but "
            f"classes are 0 to {vocabulary.num_classes - 1}: give one of these"
        )
    if not vocabulary.encode_crop:
        layout = cropped(layout, crop_box)
    tokens = np.full(vocabulary.max_length, vocabulary.none_token, np.int32)
    corners = np.concatenate(
        [layout.boxes[:, :2], layout.boxes[:, :2] + layout.boxes[:, 2:]]
    )
    top_left, bottom_right = np.split(_position_tokens(corners, vocabulary), 2)
    rows = np.stack([_class_tokens(layout, vocabulary), top_left, bottom_right], 1)
    tokens[: rows.size] = rows.reshape(-1)
    if vocabulary.encode_crop:
        crop = np.asarray(crop_box, np.float32).reshape(2, 2)
        tokens[-2:] = _position_tokens(crop, vocabulary)
    return tokens


def decode_tokens(
    tokens: Int32[np.ndarray, " l"], vocabulary: LayoutVocabulary
) -> tuple[Layout, Float32[np.ndarray, "4"]]:
    """The layout and the crop box that tokens spell, to the nearest section.

    Raises:
      ValueError: for another number of tokens than the vocabulary has.
    """
    tokens = np.asarray(tokens)
    if tokens.shape != (vocabulary.max_length,):
        raise ValueError(
            f"a layout has {vocabulary.max_length} tokens, not {tokens.shape}: decode "
            "them with the vocabulary that spelled them"
        )
    rows = tokens[: 3 * vocabulary.max_objects].reshape(-1, 3)
    rows = rows[rows[:, 0] != vocabulary.none_token]
    start, end = (_positions(rows[:, i], vocabulary) for i in (1, 2))
    bits, classes = np.divmod(rows[:, 0], vocabulary.num_classes)
    flags = {name: (bits >> bit & 1).astype(bool) for bit, name in enumerate(FLAGS)}
    crop_box = np.array(WHOLE, np.float32)
    if vocabulary.encode_crop:
        crop_box = _positions(tokens[-2:], vocabulary).reshape(4)
    return Layout(np.concatenate([start, end - start], 1), classes, **flags), crop_box


def _position_tokens(
    points: Float32[np.ndarray, "n 2"], vocabulary: LayoutVocabulary
) -> Int32[np.ndarray, " n"]:
    sections = vocabulary.num_sections
    x, y = np.rint(np.clip(points.astype(np.float64), 0, 1) * (sections - 1)).T
    return (y * sections + x).astype(np.int32)


def _positions(
    tokens: Int32[np.ndarray, " n"], vocabulary: LayoutVocabulary
) -> Float32[np.ndarray, "n 2"]:
    rows_and_columns = np.divmod(tokens, vocabulary.num_sections)
    x_and_y = np.stack(rows_and_columns[::-1], 1)
    return (x_and_y / (vocabulary.num_sections - 1)).astype(np.float32)


def _class_tokens(
    layout: Layout, vocabulary: LayoutVocabulary
) -> Int32[np.ndarray, " n"]:
    bits = np.zeros(layout.num_objects, np.int32)
    for bit, name in enumerate(FLAGS):
        if name in vocabulary.flags:
            bits |= getattr(layout, name).astype(np.int32) << bit
    return layout.classes + vocabulary.num_classes * bits
