import numpy as np
import pytest
from odd_images import CORRUPT, READABLE

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
