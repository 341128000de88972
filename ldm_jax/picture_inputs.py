"""Pictures in files, as the arrays that a model is given."""

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32, UInt8
from PIL import Image

from ldm_jax.data.images import CorruptImage, decode_pixels
from ldm_jax.data.segmentation_maps import read_labels


def read_picture(
    path: str | Path, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """A picture of any format, upright, on white; resized (Lanczos) if `size` is given.

    Args:
      size: height and width.

    Raises:
      FileNotFoundError, ValueError: one sentence if there is none.
    """
    pixels = _decoded(path)
    if size in (None, pixels.shape[:2]):
        return pixels
    return _resized(pixels, size, Image.Resampling.LANCZOS)


def read_hole(path: str | Path, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """True where a picture is more than half white, which is where to fill in.

    Another size than (height, width) `size` is brought to that by the nearest pixel.

    Raises:
      FileNotFoundError, ValueError: one sentence if there is none, or nothing is white.
    """
    pixels = _resized(_decoded(path), size, Image.Resampling.NEAREST)
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


def shorter_side_to(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) scaled so that the shorter one is `side`."""
    scale = side / min(size)
    return max(side, round(size[0] * scale)), max(side, round(size[1] * scale))


def fitted_size(
    size: tuple[int, int], height: int | None, width: int | None
) -> tuple[int, int]:
    """(height, width) as asked for; one that is left out keeps the proportions."""
    if height is None and width is None:
        return size
    if height is None:
        height = max(1, round(size[0] * width / size[1]))
    if width is None:
        width = max(1, round(size[1] * height / size[0]))
    return height, width


def sha256(path: str | Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _check_file(path: str | Path) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not a file: give the path of a picture")


def _decoded(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    _check_file(path)
    try:
        return decode_pixels(Path(path).read_bytes())
    except CorruptImage as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _resized(
    pixels: np.ndarray, size: tuple[int, int], resampling: Image.Resampling
) -> np.ndarray:
    picture = Image.fromarray(pixels).resize((size[1], size[0]), resampling)
    return np.asarray(picture)
