"""Random holes for inpainting, as LaMa draws them, and the transform that cuts them.

Suvorov et al. 2022, "Resolution-robust Large Mask Inpainting with Fourier
Convolutions"; LDM took its masks from there. `HOLES[name](height, width, generator)`
gives bool `[height, width]`, True in the hole, with at least one pixel of either kind.

LaMa states lengths for pictures of 256 (training) or 512 (evaluation sets). Here they
are drawn on a canvas whose shorter side is that long, and the canvas is scaled to the
picture, so that holes look alike at every size; at LaMa's own size nothing changes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from ldm_jax.data.hole_shapes import Boxes, Strokes, rasterize

_ATTEMPTS = 50  # LaMa's thick holes are too large in one draw of three


@dataclass(frozen=True)
class LamaHoles:
    """Strokes or boxes, one kind for each picture.

    Attributes:
      canvas_size: the shorter side of the picture that the lengths are meant for.
      strokes, boxes: how either is drawn.
      box_rate: how often boxes are.
      max_area: holes that cover more of the picture are drawn again.
    """

    canvas_size: int
    strokes: Strokes
    boxes: Boxes
    box_rate: float
    max_area: float = 1.0

    def __call__(
        self, height: int, width: int, generator: np.random.Generator
    ) -> Bool[np.ndarray, "height width"]:
        """One hole.

        Raises:
          ValueError: for a picture of one pixel, which has no room for a hole.
        """
        for _ in range(_ATTEMPTS):
            hole = self.draw(height, width, generator)
            if hole.any() and not hole.all() and hole.mean() <= self.max_area:
                return hole
        return center(height, width, generator)  # pictures of a few pixels

    def draw(
        self, height: int, width: int, generator: np.random.Generator
    ) -> Bool[np.ndarray, "height width"]:
        """One draw, of whatever area."""
        scale = min(height, width) / self.canvas_size
        kind = self.boxes if generator.random() < self.box_rate else self.strokes
        shapes = kind.draw(round(height / scale), round(width / scale), generator)
        return rasterize(shapes, height, width, scale)


def center(
    height: int, width: int, generator: np.random.Generator
) -> Bool[np.ndarray, "height width"]:
    """The middle rectangle of half the height and width, as in LDM's logs.

    Raises:
      ValueError: for a picture of one pixel.
    """
    del generator
    if height * width < 2:
        raise ValueError(
            "a picture of 1x1 has no room for a hole: give 2 pixels or more"
        )
    hole = np.zeros((height, width), bool)
    down, across = max(1, height // 2), max(1, width // 2)
    top, left = (height - down) // 2, (width - across) // 2
    hole[top : top + down, left : left + across] = True
    return hole


def border(
    height: int, width: int, generator: np.random.Generator
) -> Bool[np.ndarray, "height width"]:
    """All but `center`, for outpainting on every side.

    LDM's logs mean to show this, but cut the centre there too.
    """
    return ~center(height, width, generator)


def half(
    height: int, width: int, generator: np.random.Generator
) -> Bool[np.ndarray, "height width"]:
    """The left, right, upper or lower half: outpainting to one side.

    A side of one pixel is not divided. Raises as `center` does.
    """
    if height * width < 2:
        return center(height, width, generator)
    hole = np.zeros((height, width), bool)
    edge = generator.integers(4)
    if width > 1 and (edge < 2 or height == 1):
        hole[:, : width // 2] = True
    else:
        hole[: height // 2] = True
    return hole if edge % 2 == 0 else hole[::-1, ::-1]


_TRAINING = LamaHoles(256, Strokes((1, 5), 200, 100), Boxes((1, 4), (30, 150)), 0.5)
_BOX_SHARE = 0.3 / 1.3  # of the evaluation sets: weights 1 (strokes) and 0.3 (boxes)

HOLES: dict[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "lama": _TRAINING,
    "irregular": replace(_TRAINING, box_rate=0.0),
    "box": replace(_TRAINING, box_rate=1.0),
    "thin": LamaHoles(
        512, Strokes((4, 70), 100, 20), Boxes((1, 1), (30, 150)), 0.0, max_area=0.5
    ),
    "medium": LamaHoles(
        512, Strokes((4, 10), 200, 100), Boxes((1, 5), (30, 150)), _BOX_SHARE, 0.5
    ),
    "thick": LamaHoles(
        512, Strokes((1, 5), 450, 250), Boxes((1, 4), (30, 300)), _BOX_SHARE, 0.5
    ),
    "center": center,
    "border": border,
    "half": half,
}


@dataclass(frozen=True)
class CutHole:
    """Adds `hole`, float32 `[H, W, 1]`, 1 inside, and `masked_image` `[H, W, 3]`.

    The latter is `image` with `hole_value` inside the hole.

    Attributes:
      holes: a name of `HOLES`.
      hole_value: what the conditioner wants there (`Inpainting.hole_value`).

    Raises:
      ValueError: for an unknown name.
    """

    holes: str
    hole_value: float

    def __post_init__(self) -> None:
        if self.holes not in HOLES:
            raise ValueError(
                f"data.holes is {self.holes!r}: choose one of {', '.join(HOLES)}"
            )

    def __call__(
        self, example: Mapping[str, Any], generator: np.random.Generator
    ) -> dict[str, Any]:
        image = example["image"]
        hole = HOLES[self.holes](image.shape[0], image.shape[1], generator)[..., None]
        masked_image = np.where(hole, np.float32(self.hole_value), image)
        return {
            **example,
            "hole": hole.astype(np.float32),
            "masked_image": masked_image.astype(np.float32, copy=False),
        }
