"""The shapes that holes are made of: random strokes and boxes, and their pixels.

Suvorov et al. 2022, "Resolution-robust Large Mask Inpainting with Fourier
Convolutions". Shapes are drawn on a canvas of whole units and scaled to pixels.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw


class Line(NamedTuple):
    """A thick line with round ends, in canvas units."""

    x0: int
    y0: int
    x1: int
    y1: int
    width: int


class Box(NamedTuple):
    """A filled rectangle, in canvas units; the far sides are outside it."""

    left: int
    top: int
    right: int
    bottom: int


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
            angle = sign * (0.01 + int(generator.integers(self.max_angle)))
            length = 10 + int(generator.integers(self.max_length))
            thickness = 5 + int(generator.integers(self.max_width))
            to_x = min(max(int(x + length * math.sin(angle)), 0), width)
            to_y = min(max(int(y + length * math.cos(angle)), 0), height)
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
            _draw_line(pen, shape, scale)
    return np.array(image)


def _draw_line(pen: ImageDraw.ImageDraw, line: Line, scale: float) -> None:
    """As OpenCV, which LaMa draws with: half discs at the ends, and all pixels that the
    outline touches, which makes a line of 5 or 6 units cover 7."""
    covered = 2 * ((line.width + 1) // 2) + 1
    width = max(1, round(covered * scale))
    x0, y0, x1, y1 = (round(value * scale) for value in line[:4])
    pen.line((x0, y0, x1, y1), fill=1, width=width)
    radius = (width - 1) / 2
    for x, y in ((x0, y0), (x1, y1)):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
