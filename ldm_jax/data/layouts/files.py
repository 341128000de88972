"""Layouts written by hand, and pictures of layouts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from ldm_jax.data.layouts.boxes import FLAGS, Layout


def read_layout(path: Path | str, class_names: Sequence[str] = ()) -> Layout:
    """A layout from a JSON file.

    The file is a list of `{"class": NAME or NUMBER, "box": [x, y, width, height]}` with
    shares of the picture's width and height; the flags of `FLAGS` may stand beside.

    Raises:
      FileNotFoundError, ValueError: one sentence that says what is wrong in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: give the JSON of a layout")
    try:
        rows = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): mend it") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f'{path} is not a list of {{"class": ..., "box": [x, y, width, height]}}: '
            "write one such object for each box"
        )
    objects = [_read_object(row, f"object {i} of {path}", class_names)
               for i, row in enumerate(rows)]  # fmt: skip
    boxes = np.array([box for _, box in objects], np.float32).reshape(-1, 4)
    flags = {n: np.array([row.get(n, False) for row in rows], bool) for n in FLAGS}
    return Layout(boxes, np.array([label for label, _ in objects], np.int32), **flags)


def draw_layout(
    layout: Layout,
    size: int,
    class_names: Sequence[str] = (),
    picture: UInt8[np.ndarray, "h w 3"] | None = None,
) -> UInt8[np.ndarray, "size size 3"]:
    """The boxes with their classes' names, on white or on the picture made of them."""
    blank = np.full((size, size, 3), 255, np.uint8)
    canvas = Image.fromarray(blank if picture is None else picture).resize((size, size))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(8, size // 24))
    for box, label in zip(layout.boxes, layout.classes, strict=True):
        x, y, width, height = (float(v) for v in box * (size - 1))
        colour = f"hsv({label * 137.5 % 360:.0f},90%,75%)"
        pen.rectangle((x, y, x + width, y + height), outline=colour, width=2)
        name = str(class_names[label] if label < len(class_names) else label)
        corner = (x + 3, y + 1)
        pen.rectangle(pen.textbbox(corner, name, font), fill="white")
        pen.text(corner, name, fill=colour, font=font)
    return np.asarray(canvas)


def _read_object(
    row: Mapping[str, Any], where: str, class_names: Sequence[str]
) -> tuple[int, list[float]]:
    """Class and box of one entry of a layout file."""
    if unknown := set(row) - {"class", "box", *FLAGS}:
        raise ValueError(
            f"{where} has {min(unknown)!r}: leave it out, objects have class, box, "
            f"{', '.join(FLAGS)}"
        )
    for name in FLAGS:
        if row.get(name, False) not in (False, True):
            raise ValueError(f"{where} has {name} {row[name]!r}: give true or false")
    box = row.get("box")
    if not isinstance(box, list) or [v for v in box if not isinstance(v, int | float)]:
        box = []
    if len(box) != 4:
        raise ValueError(
            f"{where} has the box {row.get('box')!r}: give four numbers "
            "[x, y, width, height]"
        )
    x, y, width, height = box
    is_inside = min(x, y) >= 0 and max(x + width, y + height) <= 1 + 1e-6
    if not (is_inside and width > 0 and height > 0):
        raise ValueError(
            f"{where} has the box {box}, which is not in the picture: give shares of its "
            "width and height between 0 and 1, with width and height above 0"
        )
    return _read_class(row.get("class"), where, class_names), box


def _read_class(label: Any, where: str, class_names: Sequence[str]) -> int:
    if label in class_names:
        return list(class_names).index(label)
    text = "" if isinstance(label, bool) else str(label)
    if text.isdecimal() and (not class_names or int(text) < len(class_names)):
        return int(text)
    known = ", ".join(class_names) or "numbers from 0"
    raise ValueError(f"{where} has the class {label!r}: give one of {known}")
