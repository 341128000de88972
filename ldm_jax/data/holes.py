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
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

_ATTEMPTS = 100


class Line(NamedTuple):
    """A thick line with round ends, in canvas units."""

    x0: float
    y0: float
    x1: float
    y1: float
    width: float


class Box(NamedTuple):
    """A filled rectangle, in canvas units; the far sides are outside it."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Strokes:
    """Irregular strokes: each 1 to 5 lines end to end, bending all one way.

    Attributes:
      times: least and largest number of strokes.
      max_length: a line is 10 to max_length + 9 long.
      max_width: and 5 to max_width + 4 thick.
      max_angle: its angle is 0.01 plus an integer below this, in radians from the
        vertical; every other stroke, the first among them, turns the opposite way.
    """

    times: tuple[int, int]
    max_length: int
    max_width: int
    max_angle: int = 4

    def draw(
        self, height: int, width: int, generator: np.random.Generator
    ) -> list[Line | Box]:
        """The lines of all strokes on a canvas of this size."""
        times = generator.integers(*self.times, endpoint=True)
        return [
            line
            for turn in range(times)
            for line in self._draw_one((-1, 1)[turn % 2], height, width, generator)
        ]

    def _draw_one(
        self, sign: int, height: int, width: int, generator: np.random.Generator
    ) -> list[Line | Box]:
        lines: list[Line | Box] = []
        x, y = int(generator.integers(width)), int(generator.integers(height))
        for _ in range(1 + generator.integers(5)):
            angle = sign * (0.01 + generator.integers(self.max_angle))
            length = 10 + generator.integers(self.max_length)
            thickness = 5 + int(generator.integers(self.max_width))
            to_x = int(np.clip(int(x + length * np.sin(angle)), 0, width))
            to_y = int(np.clip(int(y + length * np.cos(angle)), 0, height))
            lines.append(Line(x, y, to_x, to_y, thickness))
            x, y = to_x, to_y
        return lines


@dataclass(frozen=True)
class Boxes:
    """Rectangles that keep `margin` from the border.

    Attributes:
      times: least and largest number of rectangles.
      sides: least side, and the largest plus one.
      margin: distance from the canvas's border.
    """

    times: tuple[int, int]
    sides: tuple[int, int]
    margin: int = 10

    def draw(
        self, height: int, width: int, generator: np.random.Generator
    ) -> list[Line | Box]:
        """The rectangles on a canvas of this size."""
        end = min(self.sides[1], height - 2 * self.margin, width - 2 * self.margin)
        boxes: list[Line | Box] = []
        for _ in range(generator.integers(*self.times, endpoint=True)):
            across, down = generator.integers(self.sides[0], end, 2).tolist()
            room_x = width - 2 * self.margin - across
            room_y = height - 2 * self.margin - down
            left = self.margin + int(generator.integers(room_x, endpoint=True))
            top = self.margin + int(generator.integers(room_y, endpoint=True))
            boxes.append(Box(left, top, left + across, top + down))
        return boxes


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
    hole = np.zeros((height, width), bool)
    edge = generator.integers(4)
    if height * width < 2:
        return center(height, width, generator)
    if width > 1 and (edge < 2 or height == 1):
        hole[:, : width // 2] = True
    else:
        hole[: height // 2] = True
    return hole if edge % 2 == 0 else hole[::-1, ::-1]


def rasterize(
    shapes: list[Line | Box], height: int, width: int, scale: float
) -> Bool[np.ndarray, "height width"]:
    """The pixels that the shapes cover, their coordinates times `scale`.

    A shape is a pixel wide at the least.
    """
    image = Image.new("1", (width, height))
    pen = ImageDraw.Draw(image)
    for shape in shapes:
        if isinstance(shape, Box):
            left, top, right, bottom = (round(edge * scale) for edge in shape)
            far = max(left, right - 1), max(top, bottom - 1)  # Pillow draws these too
            pen.rectangle((left, top, *far), fill=1)
        else:
            _draw_line(pen, *(round(value * scale) for value in shape))
    return np.array(image)


def _draw_line(
    pen: ImageDraw.ImageDraw, x0: int, y0: int, x1: int, y1: int, width: int
) -> None:
    """Pillow's lines end bluntly; OpenCV's, which LaMa uses, in half discs."""
    pen.line((x0, y0, x1, y1), fill=1, width=max(1, width))
    radius = (max(1, width) - 1) / 2
    for x, y in ((x0, y0), (x1, y1)):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)


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
