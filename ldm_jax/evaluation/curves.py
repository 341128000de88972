"""Curves of a run as one picture, drawn with Pillow."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

Row = Mapping[str, float | None]

_COLUMNS, _WIDTH, _HEIGHT = 3, 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 26, 24
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")
_NOTE_HEIGHT, _NOTE_WIDTH = 18, 165
# Curves that are read together.
_TOGETHER = (
    ("logits", ("discriminator/logits_real", "discriminator/logits_fake")),
    ("discriminator loss", ("discriminator/disc_loss",)),
    ("adaptive weight", ("generator/d_weight",)),
    ("codebook perplexity", ("generator/perplexity",)),
    ("posterior std", ("generator/posterior_std",)),
    ("pixel loss", ("generator/pixel_loss",)),
)


def panels(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """Titles and the metrics drawn under each, of those that a run has logged.

    The loss, everything of validation (with EMA weights in the same panel), and what
    tells the health of a first stage.
    """
    names = sorted({name for row in rows for name, v in row.items() if v is not None})
    found: dict[str, tuple[str, ...]] = {"loss": ("loss",)} if "loss" in names else {}
    for name in names:
        if name.startswith("val/") and not name.endswith("_ema"):
            found[name] = tuple(n for n in (name, f"{name}_ema") if n in names)
    for title, together in _TOGETHER:
        there = tuple(name for name in together if name in names)
        if there:
            found[title] = there
    return found


def draw_curves(
    rows: Sequence[Row], notes: Sequence[str] = ()
) -> UInt8[np.ndarray, "h w 3"]:
    """A panel for each of `panels(rows)`, and `notes` as lines of text below."""
    titles = panels(rows)
    num_lines = -(-max(len(titles), 1) // _COLUMNS)
    wrapped = [line for note in notes for line in textwrap.wrap(note, _NOTE_WIDTH)]
    height = num_lines * _HEIGHT + len(wrapped) * _NOTE_HEIGHT
    image = Image.new("RGB", (_COLUMNS * _WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    for index, (title, names) in enumerate(titles.items()):
        corner = index % _COLUMNS * _WIDTH, index // _COLUMNS * _HEIGHT
        lines = {name: _points(rows, name) for name in names}
        draw_panel(draw, corner, (_WIDTH, _HEIGHT), title, lines)
    for index, line in enumerate(wrapped):
        top = num_lines * _HEIGHT + index * _NOTE_HEIGHT
        draw.text((10, top), line, fill="#d62728", font=_font())
    return np.asarray(image)


def draw_panel(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    size: tuple[int, int],
    title: str,
    lines: Mapping[str, np.ndarray],
) -> None:
    """One pair of axes with `lines`, each points `[n 2]`, named where there are several.

    Args:
      corner, size: left and top, width and height, in pixels of the picture.
    """
    left, top = corner[0] + _LEFT, corner[1] + _TOP
    width, height = size[0] - _LEFT - _RIGHT, size[1] - _TOP - _BOTTOM
    points = np.concatenate(list(lines.values()))
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    draw.text((left, corner[1] + 6), title, fill="black", font=_font())
    draw.rectangle((left, top, left + width, top + height), outline="#999999")
    for value, place in ((low, 1.0), ((low + high) / 2, 0.5), (high, 0.0)):
        y = top + place * height
        draw.line((left, y, left + width, y), fill="#e5e5e5")
        text = f"{value[1]:.3g}"
        draw.text((left - 6, y), text, fill="#444444", font=_font(), anchor="rm")
        x = left + (1 - place) * width
        text = f"{value[0]:g}"
        anchor = {1.0: "lt", 0.5: "mt", 0.0: "rt"}[place]
        at = (x, top + height + 5)
        draw.text(at, text, fill="#444444", font=_font(), anchor=anchor)
    for index, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        unit = (line - low) / span
        xy = [(left + x * width, top + (1 - y) * height) for x, y in unit]
        draw.line(xy, fill=colour, width=2)
        for x, y in xy if len(xy) < 30 else ():
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
        if len(lines) > 1:
            at = (left + width - 6, top + 5 + 14 * index)
            short = name.rpartition("/")[2]
            draw.text(at, short, fill=colour, font=_font(), anchor="rt")


def _points(rows: Sequence[Row], name: str) -> np.ndarray:
    found = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return np.array(found, np.float64)


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(12)
