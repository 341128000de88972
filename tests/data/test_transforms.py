import cv2
import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.transforms import (
    AddGeometry,
    Chain,
    SquareImage,
    Tokenize,
    WithMirror,
    draw,
)


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
        ({"crop_scale": (1.0, 0.5)}, "data.crop_scale"),
        (
            {"crop_scale": (0.5, 1.0), "crop": "random", "resize": "smallest_24"},
            "fixes the scale",
        ),
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


def test_the_first_three_draws_are_those_of_runs_before_there_was_a_fourth():
    np.testing.assert_array_equal(draw(generator(7))[:3], generator(7).random(3))
    assert draw(generator(7))[:3] == (
        0.625095466604667,
        0.8972138009695755,
        0.7756856902451935,
    )


@pytest.mark.parametrize("shape", [(40, 70), (33, 20), (16, 50), (100, 99), (5, 9)])
def test_area_is_opencvs_of_the_central_square(shape):
    source = example(*shape)
    height, width = shape
    side, top, left = min(shape), (height - min(shape)) // 2, (width - min(shape)) // 2
    square = source["image"][top : top + side, left : left + side]
    expected = cv2.resize(square, (16, 16), interpolation=cv2.INTER_AREA)
    result = SquareImage(16, resize="area")(source, generator())
    pixels = np.rint((result["image"] + 1) * 127.5)
    assert np.abs(pixels - expected).max() <= 1  # which rounds halves differently
    box = [left / width, top / height, (left + side) / width, (top + side) / height]
    np.testing.assert_allclose(result["crop_box"], box, rtol=1e-6)
    assert result["original_size"].tolist() == [height, width]


def coordinates(height, width):
    """A picture that tells where each of its pixels was, as labels do."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)
    return {"image": pixels, "segmentation": (rows * 256 + columns).astype(np.int32)}


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"crop": "random"},
        {"resize": "smallest_20", "crop": "random"},
        {"resize": "area", "crop": "random", "crop_scale": (0.5, 1.0)},
        {"resize": "smallest_antialias", "crop": "random", "crop_scale": (0.0, 1.0)},
        {"resize": "square_bicubic"},
    ],
)
def test_labels_and_crop_box_follow_the_picture(choices):
    source = coordinates(48, 90)
    square = SquareImage(16, flip_rate=0.5, **choices)
    flips = set()
    for seed in range(20):
        result = square(source, generator(seed))
        flips.add(int(result["flip"]))
        shown = np.rint((result["image"] + 1) * 127.5)[..., :2]
        labels = np.stack(np.divmod(result["segmentation"], 256), -1)
        assert labels.shape == (16, 16, 2) and result["segmentation"].dtype == np.int32
        # The nearest of the pixels that a new one covers, or is mixed of.
        step = (result["crop_box"][2:] - result["crop_box"][:2])[::-1] * (48, 90) / 16
        assert np.all(np.abs(shown - labels)[1:-1, 1:-1] <= step / 2 + 1)
        left, top, right, bottom = result["crop_box"] * (90, 48, 90, 48)
        columns = labels[..., 1][:, ::-1] if result["flip"] else labels[..., 1]
        assert np.all(np.diff(columns, axis=1) >= 0)
        assert np.abs(columns[0, 0] - left) <= step[1]
        assert np.abs(columns[0, -1] - right) <= step[1] + 1
        assert np.abs(labels[0, 0, 0] - top) <= step[0]
        assert np.abs(labels[-1, 0, 0] - bottom) <= step[0] + 1
    assert flips == {0, 1}


def test_the_crops_side_is_uniform_between_its_limits():
    source = example(40, 60)
    sides = {}
    for low in (0.5, 0.0):
        square = SquareImage(16, crop="random", resize="area", crop_scale=(low, 1.0))
        boxes = [square(source, generator(s))["crop_box"] for s in range(300)]
        sides[low] = [round(float(box[3] - box[1]) * 40) for box in boxes]
        widths = [round(float(box[2] - box[0]) * 60) for box in boxes]
        assert widths == sides[low]  # squares
    assert min(sides[0.5]) == 20 and max(sides[0.5]) == 39
    assert min(sides[0.0]) == 16  # of `image_size` pixels at least
    assert abs(np.mean(sides[0.5]) - 29.5) < 1.5
    plain = SquareImage(16, crop="random", resize="area").for_evaluation()
    assert square.for_evaluation() == plain and not square.is_cacheable


def test_a_label_map_of_another_size_is_named():
    source = coordinates(20, 30) | {"name": "a/b.jpg"}
    source["segmentation"] = source["segmentation"][:, :29]
    with pytest.raises(
        ValueError, match="a/b.jpg has 20x29 pixels and the picture 20x30"
    ):
        SquareImage(16)(source, generator())


def test_geometry_says_how_a_picture_was_cut():
    source = example(40, 60)
    square = SquareImage(16, "area", "random", 0.5, (0.5, 1.0))
    for seed in range(10):
        square_result = square(source, generator(seed))
        geometry = AddGeometry()(square_result, generator())["geometry"]
        left, top, right, _ = square_result["crop_box"] * (60, 40, 60, 40)
        left = 60 - right if square_result["flip"] else left
        assert geometry.dtype == np.int32
        assert geometry.tolist() == [
            40,
            60,
            round(float(top)),
            round(float(left)),
            16,
            16,
        ]
