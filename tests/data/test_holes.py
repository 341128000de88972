import pickle
from collections import Counter
from itertools import pairwise

import cv2
import numpy as np
import pytest
from scipy import ndimage, stats

from ldm_jax.data.hole_shapes import Box, Boxes, Line, Strokes, rasterize
from ldm_jax.data.holes import HOLES, CutHole

RANDOM = ("lama", "irregular", "box", "thin", "medium", "thick")


def areas(name, size, number=200, seed=0):
    generator = np.random.default_rng(seed)
    return np.array([HOLES[name](size, size, generator).mean() for _ in range(number)])


@pytest.mark.parametrize("name", HOLES)
@pytest.mark.parametrize(
    "shape",
    [(64, 64), (256, 256), (48, 160), (200, 31), (8, 8), (5, 3), (2, 2), (1, 9)],
)
def test_a_hole_has_the_pictures_size_and_leaves_some_of_it(name, shape):
    generator = np.random.default_rng(1)
    for _ in range(8):
        hole = HOLES[name](*shape, generator)
        assert hole.shape == shape and hole.dtype == bool
        assert hole.any() and not hole.all()


@pytest.mark.parametrize("name", HOLES)
def test_a_picture_of_one_pixel_is_refused(name):
    with pytest.raises(ValueError, match="no room for a hole"):
        HOLES[name](1, 1, np.random.default_rng(0))


@pytest.mark.parametrize("name", HOLES)
def test_the_same_seed_gives_the_same_hole_and_others_differ(name):
    first, again, other = (
        [HOLES[name](64, 64, g) for _ in range(8)]
        for g in map(np.random.default_rng, (4, 4, 5))
    )
    np.testing.assert_array_equal(first, again)
    assert name in ("center", "border") or not np.array_equal(first, other)


@pytest.mark.parametrize("name", RANDOM)
def test_holes_cover_the_same_share_at_every_size(name):
    """Lengths scale with the picture: three sizes, one distribution of areas."""
    small, middle, large = (areas(name, size, seed=size) for size in (64, 256, 512))
    for other in (small, large):
        assert stats.ks_2samp(middle, other).pvalue > 1e-3
    assert 0.2 < middle.mean() < 0.45


@pytest.mark.parametrize("name", ["thin", "medium", "thick"])
def test_evaluation_holes_cover_at_most_half(name):
    covered = areas(name, 128, number=300)
    assert covered.max() <= 0.5 and covered.max() > 0.4


def test_training_holes_may_cover_more_than_half():
    assert areas("irregular", 64).max() > 0.5


def test_training_holes_are_strokes_or_boxes_in_equal_parts():
    generator = np.random.default_rng(0)
    holes = [HOLES["lama"](256, 256, generator) for _ in range(400)]
    boxes = sum(is_boxes(hole) for hole in holes)
    assert abs(boxes - 200) < 5 * np.sqrt(100)
    assert all(is_boxes(HOLES["box"](256, 256, generator)) for _ in range(50))
    assert not any(is_boxes(HOLES["irregular"](256, 256, generator)) for _ in range(50))


def is_boxes(hole):
    """Whether a union of large rectangles: opening by a square leaves it as it is."""
    square = np.ones((29, 29), np.uint8)
    opened = cv2.morphologyEx(hole.astype(np.uint8), cv2.MORPH_OPEN, square)
    return np.array_equal(opened.astype(bool), hole)


@pytest.mark.parametrize(("name", "sides"), [("medium", 150), ("thick", 300)])
def test_evaluation_boxes_have_their_share(name, sides):
    """Weights 1 (strokes) and 0.3 (boxes), before large holes are refused."""
    assert HOLES[name].boxes.sides == (30, sides)
    assert HOLES[name].box_rate == pytest.approx(0.3 / 1.3)
    unlimited = [
        is_boxes(HOLES[name].draw(512, 512, generator))
        for generator in [np.random.default_rng(2)]
        for _ in range(250)
    ]
    rate = 0.3 / 1.3
    assert abs(sum(unlimited) - 250 * rate) < 5 * np.sqrt(250 * rate * (1 - rate))


def test_strokes_have_lamas_numbers_lengths_widths_and_angles():
    strokes, generator = HOLES["lama"].strokes, np.random.default_rng(3)
    counts, widths, lengths, angles = [], [], [], set()
    for _ in range(1500):
        lines = strokes.draw(4096, 4096, generator)  # so large that few are clipped
        connected = sum(a[2:4] == b[:2] for a, b in pairwise(lines))
        counts.append(len(lines) - connected)
        for line in lines:
            assert 0 <= min(line[:4]) and max(line[:4]) <= 4096
            widths.append(line.width)
            across, down = line.x1 - line.x0, line.y1 - line.y0
            if min(line[:4]) > 0 and max(line[:4]) < 4096:  # not clipped
                lengths.append(np.hypot(across, down))
                if lengths[-1] > 60:
                    angles.add(round(np.arctan2(across, down), 1))
    number = Counter(counts)
    assert set(number) == {1, 2, 3, 4, 5}
    assert stats.chisquare([number[n] for n in range(1, 6)]).pvalue > 1e-4
    assert (min(widths), max(widths)) == (5, 104)
    assert stats.chisquare(np.bincount(widths)[5:]).pvalue > 1e-4
    assert 8.5 < min(lengths) < 12 and 207 < max(lengths) <= 210.5
    assert angles == {sign * a for a in (0.0, 1.0, 2.0, 3.0) for sign in (1, -1)}


def test_the_first_stroke_goes_left_and_the_second_right():
    generator = np.random.default_rng(0)
    for _ in range(50):
        lines = Strokes((2, 2), 200, 100).draw(4096, 4096, generator)
        ways = [np.sign(line.x1 - line.x0) for line in lines if line.x1 != line.x0]
        assert ways == sorted(ways)


@pytest.mark.parametrize(
    ("name", "times", "length", "width"),
    [
        ("thin", (4, 70), 109, 24),
        ("medium", (4, 10), 209, 104),
        ("thick", (1, 5), 459, 254),
    ],
)
def test_evaluation_strokes_have_lamas_ranges(name, times, length, width):
    strokes, generator = HOLES[name].strokes, np.random.default_rng(0)
    assert HOLES[name].canvas_size == 512
    draws = [strokes.draw(512, 512, generator) for _ in range(400)]
    longest = max(np.hypot(a.x1 - a.x0, a.y1 - a.y0) for d in draws for a in d)
    assert longest <= length + 1.5 and longest > 0.9 * min(length, 512)
    assert max(line.width for d in draws for line in d) == width
    assert times[0] <= min(map(len, draws))
    assert max(map(len, draws)) <= 5 * times[1]
    assert strokes.times == times


def test_boxes_keep_the_margin_and_have_lamas_sides():
    generator = np.random.default_rng(0)
    draws = [HOLES["box"].boxes.draw(256, 300, generator) for _ in range(3000)]
    number = Counter(map(len, draws))
    assert set(number) == {1, 2, 3, 4}
    assert stats.chisquare(list(number.values())).pvalue > 1e-4
    boxes = np.array([box for boxes in draws for box in boxes])
    left, top, right, bottom = boxes.T
    assert left.min() == top.min() == 10
    assert right.max() == 290 and bottom.max() == 246
    for sides in (right - left, bottom - top):
        assert (sides.min(), sides.max()) == (30, 149)
        assert stats.chisquare(np.bincount(sides)[30:]).pvalue > 1e-4


def test_boxes_never_pass_the_margin_of_a_small_canvas():
    boxes = Boxes((4, 4), (30, 300)).draw(64, 200, np.random.default_rng(0))
    assert max(box.bottom for box in boxes) <= 54
    assert max(box.bottom - box.top for box in boxes) < 44


@pytest.mark.parametrize("name", ["lama", "thin", "thick"])
def test_strokes_look_like_opencvs(name):
    """LaMa draws with OpenCV; Pillow's pixels differ at the edges, not in area."""
    strokes, generator = HOLES[name].strokes, np.random.default_rng(0)
    overlaps, sizes = [], []
    for _ in range(30):
        lines = strokes.draw(512, 512, generator)
        ours, theirs = rasterize(lines, 512, 512, 1.0), np.zeros((512, 512), np.uint8)
        for line in lines:
            cv2.line(theirs, line[:2], line[2:4], 1, line.width)
        overlaps.append((ours & (theirs > 0)).sum() / (ours | (theirs > 0)).sum())
        sizes.append(ours.sum() / theirs.sum())
    assert np.mean(overlaps) > 0.97 and min(overlaps) > 0.9
    assert abs(np.mean(sizes) - 1) < 0.01, np.mean(sizes)


def test_shapes_scale_with_the_canvas_and_never_vanish():
    box = Box(10, 20, 50, 44)
    expected = np.zeros((32, 24), bool)
    expected[5:11, 2:12] = True
    np.testing.assert_array_equal(rasterize([box], 32, 24, 0.25), expected)
    line = Line(20, 20, 90, 60, 12)
    large = rasterize([line], 512, 512, 4.0)
    small = rasterize([line], 128, 128, 1.0)
    assert abs(large.sum() / 16 / small.sum() - 1) < 0.1
    for shape in (Line(40, 40, 41, 41, 5), Box(40, 40, 60, 60)):
        assert rasterize([shape], 8, 8, 0.02).any()


def test_fixed_holes_are_the_centre_its_surroundings_and_halves():
    generator = np.random.default_rng(0)
    center = np.zeros((8, 12), bool)
    center[2:6, 3:9] = True
    np.testing.assert_array_equal(HOLES["center"](8, 12, generator), center)
    np.testing.assert_array_equal(HOLES["border"](8, 12, generator), ~center)
    halves = {HOLES["half"](8, 12, generator).tobytes() for _ in range(100)}
    upper, left = np.zeros((8, 12), bool), np.zeros((8, 12), bool)
    upper[:4] = left[:, :6] = True
    assert halves == {half.tobytes() for half in (upper, ~upper, left, ~left)}


@pytest.mark.parametrize("scale", [0.25, 1.0, 2.0])
def test_a_stroke_is_one_region_without_gaps(scale):
    generator, size = np.random.default_rng(0), round(256 * scale)
    for _ in range(25):
        (stroke,) = (
            rasterize([line], size, size, scale)
            for line in Strokes((1, 1), 200, 100).draw(256, 256, generator)[:1]
        )
        assert ndimage.label(stroke, np.ones((3, 3)))[1] == 1
        np.testing.assert_array_equal(ndimage.binary_fill_holes(stroke), stroke)


@pytest.mark.parametrize("hole_value", [-1.0, 0.0])
def test_cut_hole_blanks_the_picture_inside_the_hole_only(hole_value):
    image = np.random.default_rng(0).uniform(-1, 1, (64, 48, 3)).astype(np.float32)
    transform = pickle.loads(pickle.dumps(CutHole("lama", hole_value)))
    result = transform({"image": image, "index": 3}, np.random.default_rng(2))
    expected = HOLES["lama"](64, 48, np.random.default_rng(2))
    hole, masked_image = result["hole"], result["masked_image"]
    assert result["index"] == 3 and result["image"] is image
    assert hole.dtype == masked_image.dtype == np.float32
    np.testing.assert_array_equal(hole, expected[..., None])
    assert (masked_image[expected] == hole_value).all()
    np.testing.assert_array_equal(masked_image[~expected], image[~expected])


def test_unknown_holes_name_those_there_are():
    with pytest.raises(ValueError, match="'circle': choose one of lama, irregular"):
        CutHole("circle", 0.0)
