"""Pictures of every sort that users have, as encoded bytes by file name."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encode(image: Image.Image, format: str, **options) -> bytes:
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def solid(mode: str, size: tuple[int, int], color) -> Image.Image:
    return Image.new(mode, size, color)


def upright_when_rotated() -> bytes:
    """A JPEG stored lying on its side, red on its upper half once turned."""
    upright = solid("RGB", (16, 32), "blue")
    upright.paste((255, 0, 0), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    return encode(lying, "JPEG", exif=exif, quality=95, subsampling=0)


def deep_grey() -> bytes:
    return encode(Image.fromarray(np.full((8, 8), 0x8040, np.uint16)), "PNG")


def animated_webp() -> bytes:
    frames = [solid("RGB", (8, 8), color) for color in ("red", "green")]
    return encode(
        frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True
    )


def palette_with_transparency() -> bytes:
    image = solid("P", (8, 8), 0)
    image.putpalette([10, 20, 30] + [0] * 765)
    return encode(image, "PNG", transparency=0)


def deep_colour() -> bytes:
    """A 16-bit RGB PNG, which Pillow cannot write: 8x8 of (0x1280, 0x3480, 0x5680)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    rows = (b"\0" + struct.pack(">HHH", 0x1280, 0x3480, 0x5680) * 8) * 8
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def broken_exif() -> bytes:
    exif = b"Exif\0\0not a TIFF header"
    return encode(solid("L", (8, 8), 50), "JPEG", exif=exif)


# name -> (bytes, the colour of the top left pixel, (height, width))
READABLE = {
    "tiny.png": (encode(solid("RGB", (1, 1), "red"), "PNG"), (255, 0, 0), (1, 1)),
    "huge.PNG": (
        encode(solid("RGB", (3000, 20), "lime"), "PNG"),
        (0, 255, 0),
        (20, 3000),
    ),
    "grey.jpeg": (encode(solid("L", (9, 7), 100), "JPEG"), (100,) * 3, (7, 9)),
    "bilevel.png": (encode(solid("1", (8, 8), 1), "PNG"), (255,) * 3, (8, 8)),
    "grey_alpha.png": (
        encode(solid("LA", (8, 8), (0, 0)), "PNG"),
        (255,) * 3,
        (8, 8),
    ),
    "half_alpha.webp": (
        encode(solid("RGBA", (8, 8), (0, 0, 0, 51)), "WEBP", lossless=True, exact=True),
        (204,) * 3,
        (8, 8),
    ),
    "palette.png": (
        encode(solid("RGB", (8, 8), (7, 8, 9)).convert("P", palette=1), "PNG"),
        (7, 8, 9),
        (8, 8),
    ),
    "palette_hole.png": (palette_with_transparency(), (255,) * 3, (8, 8)),
    "cmyk.jpg": (
        encode(solid("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100),
        (255, 0, 0),
        (8, 8),
    ),
    "deep_grey.png": (deep_grey(), (128,) * 3, (8, 8)),
    "deep_colour.png": (deep_colour(), (0x12, 0x34, 0x56), (8, 8)),
    "broken_exif.jpg": (broken_exif(), (50,) * 3, (8, 8)),
    "rotated.JPG": (upright_when_rotated(), (254, 0, 0), (32, 16)),
    "animated.webp": (animated_webp(), (255, 0, 0), (8, 8)),
}

CORRUPT = {
    "text.jpg": b"I am not a picture.",
    "empty.png": b"",
    "truncated.jpg": encode(
        Image.effect_noise((64, 64), 90).convert("RGB"), "JPEG", quality=95
    )[:1500],
    "noise.webp": bytes(range(256)) * 4,
    "bomb.png": encode(solid("1", (20_000, 20_000), 0), "PNG"),
}
