"""Pictures in files, as the arrays that a model is given."""

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32, UInt8
from PIL import Image

from ldm_jax.data.images import CorruptImage, decode_pixels
from ldm_jax.data.segmentation_maps import read_labels


def read_picture(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """A picture of any format, upright, on white.

    Raises:
      FileNotFoundError, ValueError: one sentence if there is none.
    """
    _check_file(path)
    try:
        return decode_pixels(Path(path).read_bytes())
    except CorruptImage as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_hole(path: str | Path, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """True where a picture is more than half white, which is where to fill in.

    Another size than (height, width) `size` is brought to that by the nearest pixel.

    Raises:
      FileNotFoundError, ValueError: one sentence if there is none, or nothing is white.
    """
    pixels = _resized(read_picture(path), size, Image.Resampling.NEAREST)
    hole = pixels.mean(-1) > 127.5
    if not hole.any():
        raise ValueError(
            f"{path} has nothing white: paint white what is to be filled in"
        )
    return hole


def read_label_map(path: str | Path) -> Int32[np.ndarray, "H W"]:
    """The values of a grey picture, or the indices of one with a palette.

    Raises:
      FileNotFoundError, ValueError: one sentence if there is none, or it has colours.
    """
    _check_file(path)
    try:
        return read_labels(path)
    except (CorruptImage, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_start(
    init_image: str | Path,
    mask: str | Path | None,
    *,
    height: int | None,
    width: int | None,
    training_size: int,
) -> dict[str, np.ndarray]:
    """`init_image` uint8 `[H W 3]` and, with a mask, `hole` bool `[H W]`.

    Both have the size asked for; where one side is left out, the picture's proportions.
    Where both are, a picture to fill in keeps its size, and one to vary is brought to the
    training size by its shorter side.

    Raises:
      FileNotFoundError, ValueError: one sentence for a file that is no picture.
    """
    pixels = read_picture(init_image)
    size = h, w = pixels.shape[:2]
    if height is not None or width is not None:
        size = (
            height or max(1, round(h * (width or w) / w)),
            width or max(1, round(w * (height or h) / h)),
        )
    elif mask is None:
        scale = training_size / min(h, w)
        size = round(h * scale), round(w * scale)
    if size != (h, w):
        pixels = _resized(pixels, size, Image.Resampling.LANCZOS)
    start = {"init_image": pixels}
    return start if mask is None else start | {"hole": read_hole(mask, size)}


def sha256(path: str | Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _check_file(path: str | Path) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not a file: give the path of a picture")


def _resized(
    pixels: np.ndarray, size: tuple[int, int], resampling: Image.Resampling
) -> np.ndarray:
    picture = Image.fromarray(pixels).resize((size[1], size[0]), resampling)
    return np.asarray(picture)
