"""Held-out conditions as files, and the flags that give them to sample.py."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tools.tasks.held_out import HeldOut

# Writes what it needs of the first of the pictures into the folder.
Flags = Callable[[HeldOut, Path], list[str]]


def class_label(pictures: HeldOut, folder: Path) -> list[str]:
    """`--class_label=NAME`."""
    del folder
    return [f"--class_label={pictures.class_names[pictures.labels[0]]}"]


def text(pictures: HeldOut, folder: Path) -> list[str]:
    """`--prompt=CAPTION`."""
    del folder
    return [f"--prompt={pictures.examples[0]['caption']}"]


def layout(pictures: HeldOut, folder: Path) -> list[str]:
    """`--layout=boxes.json`."""
    given = pictures.examples[0]["layout"]
    rows = [
        {"class": pictures.class_names[label], "box": np.clip(box, 0, 1).tolist()}
        for label, box in zip(given.classes, given.boxes, strict=True)
    ]
    path = folder / "boxes.json"
    path.write_text(json.dumps(rows, indent=1) + "\n")
    return [f"--layout={path}"]


def semantic(pictures: HeldOut, folder: Path) -> list[str]:
    """`--segmentation=map.png`."""
    labels = pictures.fields["segmentation"][0].astype(np.uint8)
    return [f"--segmentation={_saved(labels, folder / 'map.png')}"]


def super_resolution(pictures: HeldOut, folder: Path) -> list[str]:
    """`--low_res=small.png`."""
    small = np.rint((pictures.fields["low_res"][0] + 1) * 127.5).astype(np.uint8)
    return [f"--low_res={_saved(small, folder / 'small.png')}"]


def inpainting(pictures: HeldOut, folder: Path) -> list[str]:
    """`--init_image=a.png --mask=hole.png`."""
    hole = (255 * pictures.fields["hole"][0, ..., 0]).astype(np.uint8)
    image = _saved(pictures.pixels[0], folder / "a.png")
    return [f"--init_image={image}", f"--mask={_saved(hole, folder / 'hole.png')}"]


def retrieval(pictures: HeldOut, folder: Path) -> list[str]:
    """`--query_image=a.png`."""
    return [f"--query_image={_saved(pictures.pixels[0], folder / 'a.png')}"]


def _saved(pixels: np.ndarray, path: Path) -> Path:
    Image.fromarray(pixels).save(path)
    return path
