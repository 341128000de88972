"""Encoded image bytes of any mode to RGB pixels."""

import io
import struct

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 2**27  # 134 million; decoded, 400 MB
# Pillow opens many more, some of them by starting programs (EPS) or fetching parts.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

_BAD_EXIF = (SyntaxError, ValueError, TypeError, LookupError, OSError, struct.error)
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class CorruptImage(ValueError):
    """The bytes are not an image that can be read."""


def decode_pixels(encoded: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decode to RGB, upright, opaque, 8 bits.

    EXIF rotation is applied, transparency is composited on white, 16-bit grey keeps its
    upper byte, animations give their first frame.

    Raises:
      CorruptImage: if the bytes are in none of `FORMATS`, end too early or state more
        than `MAX_PIXELS` pixels, of which none is decoded then.
    """
    if not encoded:
        raise CorruptImage("the file is empty")
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            check_size(image)
            image.load()
            return np.asarray(_to_rgb(_upright(image)))
    except CorruptImage:
        raise
    except UnidentifiedImageError as error:
        raise CorruptImage(f"it is none of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's decoders raise nearly every type on bad bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CorruptImage(reason) from error


def check_size(image: Image.Image) -> None:
    """Refuse a picture that is opened but not yet decoded.

    Raises:
      CorruptImage: if it states more than `MAX_PIXELS` pixels.
    """
    if image.width * image.height > MAX_PIXELS:
        raise CorruptImage(
            f"{image.width}x{image.height} pixels are too many: at most {MAX_PIXELS}"
        )


def _upright(image: Image.Image) -> Image.Image:
    """Undo the rotation that EXIF states.

    Not `ImageOps.exif_transpose`, which also rewrites the EXIF block and fails where
    some other tag of it is malformed.
    """
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except _BAD_EXIF:  # says nothing about the picture itself
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey_to_rgb(np.asarray(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _grey_to_rgb(values: np.ndarray) -> Image.Image:
    """Deep grey: integers are 16-bit, floats count in [0, 255]."""
    if np.issubdtype(values.dtype, np.integer):
        values = values.astype(np.int64) >> 8
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB")
