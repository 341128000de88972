"""Resizing with OpenCV and with Pillow, and the cut that makes a size divisible."""

from functools import cache
from types import ModuleType

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

_CV_FLAGS = {
    "nearest": "INTER_NEAREST",
    "linear": "INTER_LINEAR",
    "cubic": "INTER_CUBIC",
    "area": "INTER_AREA",
    "lanczos": "INTER_LANCZOS4",
}


@cache
def opencv() -> ModuleType:
    """The module cv2, kept to one thread: data workers already use every core.

    Raises:
      ValueError: if OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            "the degradations bsrgan*, cv_* need OpenCV, which is not installed: "
            'pip install "ldm-jax[sr]" or take bicubic'
        ) from error
    cv2.setNumThreads(1)
    return cv2


def crop_to_multiple(
    pixels: UInt8[np.ndarray, "H W c"], factor: int
) -> UInt8[np.ndarray, "h w c"]:
    """Cut the bottom and right edge so that `factor` divides both sides.

    The reference limits the height by the width and the reverse (`[:w - w % f,
    :h - h % f]`), so that its result's size is wrong unless the picture is square.

    Raises:
      ValueError: if nothing would be left, or the factor is below 1.
    """
    height, width = pixels.shape[:2]
    if factor < 1:
        raise ValueError(f"pictures cannot be reduced {factor} times: give 1 or more")
    if min(height, width) < factor:
        raise ValueError(
            f"a picture of {height}x{width} cannot be reduced {factor} times: "
            f"give pictures of {factor}x{factor} or more"
        )
    return pixels[: height - height % factor, : width - width % factor]


def pil_resize(
    pixels: UInt8[np.ndarray, "H W 3"],
    factor: int,
    generator: np.random.Generator,
    *,
    resample: Image.Resampling,
) -> UInt8[np.ndarray, "h w 3"]:
    """Pillow's resize, which filters before it samples (NEAREST apart)."""
    del generator
    image = Image.fromarray(crop_to_multiple(pixels, factor))
    size = image.width // factor, image.height // factor
    return np.asarray(image.resize(size, resample))


def cv_resize(
    pixels: UInt8[np.ndarray, "H W 3"],
    factor: int,
    generator: np.random.Generator,
    *,
    interpolation: str,
) -> UInt8[np.ndarray, "h w 3"]:
    """OpenCV's resize, which aliases when it shrinks, `area` apart."""
    del generator
    pixels = crop_to_multiple(pixels, factor)
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    return interpolate(pixels, height, width, interpolation)


def interpolate(
    image: np.ndarray, height: int, width: int, interpolation: str
) -> np.ndarray:
    """`[H, W, 3]` of uint8 or float32 to `[height, width, 3]` by OpenCV's rule.

    `interpolation`: nearest, linear, cubic (a = -0.75), area or lanczos (4 lobes).
    """
    cv2 = opencv()
    flag = getattr(cv2, _CV_FLAGS[interpolation])
    return cv2.resize(image, (width, height), interpolation=flag)


def antialiased_cubic(
    image: Float32[np.ndarray, "H W c"], height: int, width: int
) -> Float32[np.ndarray, "height width c"]:
    """Bicubic (a = -0.5) with the kernel widened by the scale, as MATLAB's imresize.

    By Pillow, in float32. At the border Pillow leaves out the taps that lie outside and
    rescales the rest, where MATLAB mirrors the picture.
    """
    bands = [
        Image.fromarray(np.ascontiguousarray(image[..., band])).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for band in range(image.shape[-1])
    ]
    return np.stack([np.asarray(band) for band in bands], axis=-1)
