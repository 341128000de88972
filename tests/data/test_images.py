import io
import warnings

import numpy as np
import pytest
from odd_images import CORRUPT, READABLE, encode
from PIL import Image, ImageOps

from ldm_jax.data.images import CorruptImage, decode_pixels


@pytest.mark.parametrize("name", READABLE)
def test_every_kind_of_picture_becomes_upright_opaque_rgb(name):
    encoded, colour, shape = READABLE[name]
    pixels = decode_pixels(encoded)
    assert pixels.dtype == np.uint8 and pixels.shape == (*shape, 3)
    np.testing.assert_allclose(pixels[0, 0], colour, atol=1)


def test_a_rotated_picture_is_turned_whole():
    pixels = decode_pixels(READABLE["rotated.JPG"][0])
    np.testing.assert_allclose(pixels[8, 8], (254, 0, 0), atol=2)
    np.testing.assert_allclose(pixels[24, 8], (0, 0, 254), atol=2)


@pytest.mark.parametrize("name", CORRUPT)
def test_bytes_that_are_no_picture_raise_one_error(name):
    with pytest.raises(CorruptImage) as caught:
        decode_pixels(CORRUPT[name])
    assert str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("orientation", range(10))
def test_every_exif_orientation_is_undone(orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = encode(Image.fromarray(pixels), "PNG", exif=exif)
    with Image.open(io.BytesIO(encoded)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(decode_pixels(encoded), expected)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_does_not_lose_the_picture(format):
    """A hundred damaged EXIF blocks: whatever Pillow makes of them, pixels remain."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "a description", 72.0
    generator = np.random.default_rng(0)
    picture = Image.new("L", (8, 8), 50)
    for _ in range(100):
        block = bytearray(exif.tobytes())
        for place in generator.integers(6, len(block), 8):
            block[place] = generator.integers(256)
        encoded = encode(picture, format, exif=bytes(block[: generator.integers(99)]))
        with warnings.catch_warnings(action="ignore"):
            assert abs(decode_pixels(encoded).astype(int) - 50).max() <= 1
