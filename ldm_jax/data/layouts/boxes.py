"""Boxes with classes, in shares of their picture."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32

# In the order in which they count 1, 2, 4, 8 in a class token.
FLAGS = ("is_group", "is_occluded", "is_depiction", "is_inside")
WHOLE = (0.0, 0.0, 1.0, 1.0)

CropBox = Sequence[float] | np.ndarray


@dataclass(frozen=True, eq=False)
class Layout:
    """The objects of one picture.

    Attributes:
      boxes: x, y, width and height of each, as shares of the whole picture's width and
        height, (x, y) its top left corner.
      classes: index into the source's `class_names`.
      is_group, is_occluded, is_depiction, is_inside: the flags of OpenImages; False if
        not given.

    Raises:
      ValueError: for arrays that do not belong together.
    """

    boxes: Float32[np.ndarray, "n 4"]
    classes: Int32[np.ndarray, " n"]
    is_group: Bool[np.ndarray, " n"] | None = None
    is_occluded: Bool[np.ndarray, " n"] | None = None
    is_depiction: Bool[np.ndarray, " n"] | None = None
    is_inside: Bool[np.ndarray, " n"] | None = None

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, np.float32).reshape(-1, 4)
        arrays = {"boxes": boxes, "classes": np.asarray(self.classes, np.int32)}
        for name in FLAGS:
            value = getattr(self, name)
            arrays[name] = np.asarray(
                np.zeros(len(boxes)) if value is None else value, bool
            )
        for name, array in arrays.items():
            if len(array) != len(boxes):
                raise ValueError(
                    f"a layout of {len(boxes)} boxes has {len(array)} {name}: give one "
                    "for each box"
                )
            object.__setattr__(self, name, array)

    @property
    def num_objects(self) -> int:
        """How many boxes."""
        return len(self.boxes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layout):
            return NotImplemented
        theirs = _arrays(other)
        return all(np.array_equal(v, theirs[n]) for n, v in _arrays(self).items())

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def take(self, which: np.ndarray | slice) -> "Layout":
        """The objects at some indices, of a slice or of a mask, in that order."""
        return Layout(**{name: array[which] for name, array in _arrays(self).items()})


def is_in(layout: Layout, crop_box: CropBox) -> Bool[np.ndarray, " n"]:
    """Which objects the crop shows a part of."""
    boxes = cropped(layout, crop_box).boxes
    return (boxes[:, 2] > 0) & (boxes[:, 3] > 0)


def cropped(layout: Layout, crop_box: CropBox) -> Layout:
    """The boxes in coordinates of the crop, cut off at its border.

    Those outside it are left without width or height.
    """
    crop = np.asarray(crop_box, np.float32).reshape(2, 2)
    start, size = crop[0], crop[1] - crop[0]
    corners = layout.boxes.reshape(-1, 2, 2).cumsum(axis=1)
    corners = np.clip((corners - start) / size, 0, 1)
    boxes = np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], 1)
    return dataclasses.replace(layout, boxes=boxes)


def mirrored(
    layout: Layout, crop_box: CropBox = WHOLE
) -> tuple[Layout, Float32[np.ndarray, "4"]]:
    """Left and right of the boxes and of the crop exchanged."""
    boxes = layout.boxes.copy()
    boxes[:, 0] = 1 - boxes[:, 0] - boxes[:, 2]
    left, top, right, bottom = crop_box
    crop_box = np.array([1 - right, top, 1 - left, bottom], np.float32)
    return dataclasses.replace(layout, boxes=boxes), crop_box


def concatenate(layouts: Sequence[Layout]) -> Layout:
    """The objects of several layouts in one."""
    arrays = [_arrays(layout) for layout in layouts]
    return Layout(
        **{name: np.concatenate([a[name] for a in arrays]) for name in arrays[0]}
    )


def _arrays(layout: Layout) -> dict[str, np.ndarray]:
    names = [field.name for field in dataclasses.fields(layout)]
    return {name: getattr(layout, name) for name in names}
