"""Drawn pictures as files."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ldm_jax.arrays import image_grid
from ldm_jax.data.layouts import Layout, draw_layout

# Of layout.png: small pictures are enlarged so that names can be read.
MIN_LAYOUT_SIZE = 256


def write_pictures(
    folder: Path,
    pixels: UInt8[np.ndarray, "n H W 3"],
    previews: UInt8[np.ndarray, "p n H W 3"],
    *,
    npz: bool = False,
) -> None:
    """00000.png, ..., grid.png, previews.png if there are any, samples.npz on demand."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{index:05d}.png")
    columns = math.ceil(math.sqrt(len(pixels)))
    _save_grid(folder / "grid.png", pixels, columns)
    if len(previews):
        rows = previews.reshape(-1, *pixels.shape[1:])
        _save_grid(folder / "previews.png", rows, len(pixels))
    if npz:
        np.savez(folder / "samples.npz", pixels)


def write_layouts(
    folder: Path,
    layouts: Sequence[Layout],
    class_names: Sequence[str],
    pixels: UInt8[np.ndarray, "n H W 3"],
) -> None:
    """layout.png: the boxes of each picture, on white and below that on the picture."""
    side = max(MIN_LAYOUT_SIZE, *pixels.shape[1:3])
    asked = [layouts[index % len(layouts)] for index in range(len(pixels))]
    boxes = [draw_layout(layout, side, class_names) for layout in asked]
    boxes += [
        draw_layout(layout, side, class_names, picture)
        for layout, picture in zip(asked, pixels, strict=True)
    ]
    _save_grid(folder / "layout.png", np.stack(boxes), len(pixels))


def _save_grid(path: Path, pixels: np.ndarray, columns: int) -> None:
    Image.fromarray(image_grid(pixels, columns=columns)).save(path)
