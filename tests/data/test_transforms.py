import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.transforms import Chain, SquareImage, Tokenize, WithMirror, draw


def generator(seed=0):
    return np.random.default_rng(seed)


def example(height, width, seed=0):
    pixels = generator(seed).integers(0, 256, (height, width, 3), np.uint8)
    return {"image": pixels, "class_label": 3}


def bilinear(pixels, height, width):
    """Plain two-tap bilinear with half-pixel centres, as OpenCV's INTER_LINEAR."""

    def taps(old, new):
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, old - 1), at - low

    values = pixels.astype(np.float64)
    low, high, part = taps(pixels.shape[0], height)
    values = (
        values[low] * (1 - part)[:, None, None] + values[high] * part[:, None, None]
    )
    low, high, part = taps(pixels.shape[1], width)
    return values[:, low] * (1 - part)[:, None] + values[:, high] * part[:, None]


@pytest.mark.parametrize("shape", [(40, 70), (33, 20), (16, 50), (5, 9), (1, 1)])
def test_smallest_is_the_references_unfiltered_bilinear_and_centre_crop(shape):
    source = example(*shape)
    scale = 16 / min(shape)
    height, width = round(shape[0] * scale), round(shape[1] * scale)
    resized = bilinear(source["image"], height, width)
    top, left = (height - 16) // 2, (width - 16) // 2
    expected = resized[top : top + 16, left : left + 16] / 127.5 - 1
    image = SquareImage(16)(source, generator())["image"]
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected, atol=1.1 / 127.5)


def test_square_bicubic_is_pillows_resize_of_the_central_square():
    source = example(41, 60)
    square = Image.fromarray(source["image"][:, 9:50])
    expected = np.asarray(square.resize((16, 16), Image.Resampling.BICUBIC))
    image = SquareImage(16, resize="square_bicubic")(source, generator())["image"]
    np.testing.assert_allclose(image, expected / 127.5 - 1, atol=1e-6)


def test_antialiasing_removes_what_plain_bilinear_aliases():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::4] = 255  # mean 63.75; every fourth row is caught or missed
    aliased = SquareImage(16)({"image": stripes}, generator())["image"]
    smooth = SquareImage(16, "smallest_antialias")({"image": stripes}, generator())
    mean = 63.75 / 127.5 - 1
    assert abs(aliased - mean).max() > 0.4
    assert abs(smooth["image"][2:-2] - mean).max() < 0.1


def test_random_crop_of_a_larger_resize_covers_every_corner():
    ramp = np.broadcast_to(np.arange(24, dtype=np.uint8), (24, 24))
    source = {"image": np.stack([ramp, ramp.T, ramp], -1)}
    transform = SquareImage(16, resize="smallest_24", crop="random")
    images = [transform(source, generator(seed))["image"] for seed in range(200)]
    corners = np.round((np.stack(images)[:, 0, 0] + 1) * 127.5).astype(int)
    assert set(corners[:, 0]) == set(corners[:, 1]) == set(range(9))


def test_flip_mirrors_at_its_rate_and_says_so():
    source = example(16, 16)
    plain = SquareImage(16)(source, generator())
    assert "flip" not in plain and plain["class_label"] == 3
    results = [SquareImage(16, flip_rate=0.5)(source, generator(s)) for s in range(300)]
    for result in results:
        expected = plain["image"][:, ::-1] if result["flip"] else plain["image"]
        np.testing.assert_array_equal(result["image"], expected)
    assert 0.4 < np.mean([result["flip"] for result in results]) < 0.6
    assert results[0]["flip"] == (draw(generator(0)).flip < 0.5)


def test_evaluation_has_no_chance():
    transform = SquareImage(16, "smallest_24", "random", 0.5).for_evaluation()
    images = [transform(example(30, 40), generator(s))["image"] for s in range(3)]
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])
    assert transform.is_cacheable


def test_with_mirror_gives_the_picture_and_its_flip():
    both = WithMirror(SquareImage(8))(example(10, 12), generator())["image"]
    np.testing.assert_array_equal(both[1], both[0][:, ::-1])
    with pytest.raises(ValueError, match="without random"):
        WithMirror(SquareImage(8, crop="random"))


def test_a_long_strip_is_never_resized_whole():
    strip = {"image": np.zeros((1, 60_000, 3), np.uint8)}  # whole: 256 x 15 million
    assert SquareImage(256)(strip, generator())["image"].shape == (256, 256, 3)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"resize": "biggest"}, "data.resize"),
        ({"resize": "smallest_8"}, "too small"),
        ({"crop": "left"}, "data.crop"),
        ({"flip_rate": 1.5}, "data.flip_rate"),
    ],
)
def test_an_unknown_choice_is_named(choices, message):
    with pytest.raises(ValueError, match=message):
        SquareImage(16, **choices)


def test_tokens_join_the_picture_and_draw_nothing():
    random = np.random.default_rng(0)
    example = {
        "image": random.integers(0, 256, (9, 9, 3), np.uint8),
        "caption": "a pear",
    }
    square = SquareImage(8, resize="smallest_9", crop="random", flip_rate=0.5)
    tokenize = Tokenize(lambda texts: np.array([[len(text)] for text in texts]))
    both = Chain((square, tokenize))(example, np.random.default_rng(3))
    alone = square(example, np.random.default_rng(3))
    np.testing.assert_array_equal(both["image"], alone["image"])
    np.testing.assert_array_equal(both["tokens"], [6])
