"""Boxes to the tokens of the layout model and back; layouts written by hand."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm_jax.data.layouts import (
    FLAGS,
    Layout,
    LayoutVocabulary,
    TokenizeLayout,
    cropped,
    decode_tokens,
    draw_layout,
    layout_tokens,
    mirrored,
    read_layout,
)
from ldm_jax.data.pipeline import keep_numeric

WHOLE = np.array([0, 0, 1, 1], np.float32)
NONE = 8191


def layout_of(*boxes, classes=None, **flags):
    classes = range(len(boxes)) if classes is None else classes
    return Layout(np.array(boxes).reshape(-1, 4), np.array(list(classes)), **flags)


def example_of(layout, crop_box=WHOLE, **fields):
    return {"layout": layout, "crop_box": np.array(crop_box, np.float32), **fields}


def draw(seed=0):
    return np.random.default_rng(seed)


def test_a_layout_is_spelled_as_the_published_model_reads_it():
    layout = layout_of(
        (0.1, 0.2, 0.3, 0.4),
        (0.5, 0.0, 0.5, 1.0),
        classes=(7, 340),
        is_group=[True, False],
        is_inside=[False, True],
    )
    tokens = layout_tokens(layout, LayoutVocabulary(num_classes=354))
    assert tokens.dtype == np.int32 and tokens.shape == (92,)
    assert tokens[:3].tolist() == [7 + 354, 18 * 90 + 9, 53 * 90 + 36]
    assert tokens[3:6].tolist() == [340 + 8 * 354, 0 * 90 + 44, 89 * 90 + 89]
    assert (tokens[6:90] == NONE).all()
    assert tokens[90:].tolist() == [0, 89 * 90 + 89]


@pytest.mark.parametrize("bit, flag", list(enumerate(FLAGS)))
def test_each_flag_counts_its_power_of_two_if_it_is_told(bit, flag):
    layout = layout_of((0, 0, 1, 1), classes=[3], **{flag: [True]})
    told = layout_tokens(layout, LayoutVocabulary(10))
    untold = layout_tokens(layout, LayoutVocabulary(10, flags=()))
    assert (told[0], untold[0]) == (3 + 10 * 2**bit, 3)


def test_a_crop_is_encoded_beside_boxes_of_the_whole_picture():
    layout = layout_of((0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 0.4, 0.4))
    transform = TokenizeLayout(8)
    example = example_of(layout, (0.25, 0.0, 0.75, 0.5), flip=np.int32(0))
    tokens = transform(example, draw())["tokens"]
    seen, crop_box = decode_tokens(tokens, transform)
    assert seen.classes.tolist() == [0]  # the crop touches the other at one corner only
    np.testing.assert_allclose(seen.boxes, [[0, 0, 0.5, 0.5]], atol=1 / 89)
    np.testing.assert_allclose(crop_box, [0.25, 0, 0.75, 0.5], atol=0.5 / 89)


def test_a_mirrored_picture_has_mirrored_boxes_and_a_mirrored_crop():
    layout = layout_of((0.1, 0.2, 0.3, 0.4))
    transform = TokenizeLayout(8)
    example = example_of(layout, (0.0, 0.1, 0.7, 0.8), flip=np.int32(1))
    seen, crop_box = decode_tokens(transform(example, draw())["tokens"], transform)
    np.testing.assert_allclose(seen.boxes, [[0.6, 0.2, 0.3, 0.4]], atol=1 / 89)
    np.testing.assert_allclose(crop_box, [0.3, 0.1, 1.0, 0.8], atol=0.5 / 89)


def test_without_the_crop_boxes_are_those_of_what_the_crop_shows():
    layout = layout_of((0.0, 0.0, 0.5, 0.5))
    transform = TokenizeLayout(8, encode_crop=False)
    example = example_of(layout, (0.25, 0.25, 0.75, 0.75), flip=np.int32(1))
    tokens = transform(example, draw())["tokens"]
    seen, crop_box = decode_tokens(tokens, transform)
    assert tokens.shape == (90,)
    np.testing.assert_allclose(seen.boxes, [[0.5, 0, 0.5, 0.5]], atol=1 / 89)
    np.testing.assert_array_equal(crop_box, WHOLE)


def test_objects_come_in_random_order_and_at_most_as_many_as_fit():
    layout = layout_of(*[(0.1, 0.1, 0.5, 0.5)] * 40)
    transform = TokenizeLayout(40, flags=())
    rows = [transform(example_of(layout), draw(seed))["tokens"] for seed in (0, 0, 1)]
    first, again, other = ([t for t in row[:90:3] if t != NONE] for row in rows)
    assert first == again != other
    assert len(set(first)) == len(first) == 30


def test_tiny_objects_are_left_out():
    layout = layout_of((0.5, 0.5, 0.01, 0.01), (0, 0, 0.5, 0.5))
    transform = TokenizeLayout(8, min_object_area=0.001)
    tokens = transform(example_of(layout), draw())["tokens"]
    assert decode_tokens(tokens, transform)[0].classes.tolist() == [1]


@given(
    st.lists(st.tuples(*[st.floats(0, 0.5, width=32)] * 4), max_size=6),
    st.integers(1, 50),
    st.sampled_from((400, 1000, 8192)),
)
def test_what_is_spelled_can_be_read_back(boxes, num_classes, vocab_size):
    flags = {flag: np.arange(len(boxes)) % 2 for flag in FLAGS[:2]}
    layout = layout_of(*boxes, classes=np.arange(len(boxes)) % num_classes, **flags)
    vocabulary = LayoutVocabulary(num_classes, 6, vocab_size, flags=FLAGS[:2])
    tokens = layout_tokens(layout, vocabulary)
    seen, _ = decode_tokens(tokens, vocabulary)
    assert 0 <= tokens.min() and tokens.max() < vocab_size
    assert seen.classes.tolist() == layout.classes.tolist()
    for flag in FLAGS:
        np.testing.assert_array_equal(getattr(seen, flag), getattr(layout, flag))
    tolerance = 1.01 / (vocabulary.num_sections - 1)
    np.testing.assert_allclose(seen.boxes, layout.boxes, atol=tolerance)


def test_mirroring_twice_and_cropping_to_the_whole_change_nothing():
    layout = layout_of((0.1, 0.2, 0.3, 0.4), (0.5, 0.5, 0.5, 0.5))
    np.testing.assert_allclose(
        mirrored(*mirrored(layout))[0].boxes, layout.boxes, atol=1e-6
    )
    np.testing.assert_allclose(cropped(layout, WHOLE).boxes, layout.boxes, atol=1e-6)


def test_the_empty_layout_is_nothing_in_the_whole_picture():
    tokens = LayoutVocabulary(8).empty_tokens()
    assert (tokens[:90] == NONE).all() and tokens[90:].tolist() == [0, 8099]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LayoutVocabulary(512), r"8193 ids.*vocab_size is 8192: raise it"),
        (lambda: LayoutVocabulary(100, vocab_size=100, flags=()), "101 ids"),
        (lambda: LayoutVocabulary(0), "source with classes"),
        (lambda: LayoutVocabulary(8, flags=("is_big",)), "'is_big'"),
        (
            lambda: layout_tokens(
                layout_of(*[(0, 0, 1, 1)] * 2), LayoutVocabulary(2, 1)
            ),
            "2 objects and the model reads 1",
        ),
        (
            lambda: layout_tokens(
                layout_of((0, 0, 1, 1), classes=[8]), LayoutVocabulary(8)
            ),
            "class 8, but classes are 0 to 7",
        ),
        (lambda: decode_tokens(np.zeros(91), LayoutVocabulary(8)), "92 tokens"),
        (lambda: layout_of((0, 0, 1, 1), classes=[1, 2]), "1 boxes has 2 classes"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_most_classes_that_fit_fit():
    assert LayoutVocabulary(511).none_token == NONE
    assert LayoutVocabulary(99, vocab_size=100, flags=()).none_token == 99


def test_layouts_pickle_compare_and_stay_out_of_batches():
    layout = layout_of((0, 0, 1, 1), is_group=[True])
    assert pickle.loads(pickle.dumps(layout)) == layout
    assert layout != layout_of((0, 0, 1, 1)) and layout != "layout"
    assert keep_numeric(example_of(layout)).keys() == {"crop_box"}


def write(tmp_path, rows):
    path = tmp_path / "layout.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return path


def test_a_layout_is_read_by_names_and_by_numbers(tmp_path):
    rows = [
        {"class": "dog", "box": [0, 0.5, 0.25, 0.5]},
        {"class": 0, "box": [0.5, 0.0, 0.5, 1], "is_group": True},
        {"class": "1", "box": [0.5, 0.0, 0.5, 1]},
    ]
    layout = read_layout(write(tmp_path, rows), ("cat", "dog"))
    assert layout.classes.tolist() == [1, 0, 1]
    assert layout.is_group.tolist() == [False, True, False]
    np.testing.assert_allclose(layout.boxes[0], [0, 0.5, 0.25, 0.5])
    assert read_layout(write(tmp_path, []), ("cat",)).num_objects == 0


BOX = [0, 0, 1, 1]


@pytest.mark.parametrize(
    "rows, message",
    [
        ("{", "is not valid JSON"),
        ({"boxes": []}, "is not a list"),
        ([[0, 0, 1, 1]], "is not a list"),
        ([{"class": "dog", "box": BOX}, {"class": "cow", "box": BOX}], "object 1.*cow"),
        ([{"class": 2, "box": BOX}], "class 2: give one of cat, dog"),
        ([{"class": -1, "box": BOX}], "class -1"),
        ([{"class": True, "box": BOX}], "class True"),
        ([{"box": BOX}], "class None"),
        ([{"class": 0}], "box None: give four numbers"),
        ([{"class": 0, "box": [0, 0, "1", 1]}], "give four numbers"),
        ([{"class": 0, "box": [0.5, 0, 0.6, 1]}], "not in the picture"),
        ([{"class": 0, "box": [0, 0, 0, 1]}], "width and height above 0"),
        ([{"class": 0, "box": [0, 0, 120, 80]}], "shares"),
        ('[{"class": 0, "box": [NaN, 0, 1, 1]}]', "not in the picture"),
        ([{"class": 0, "box": BOX, "score": 1}], "'score': leave it out"),
        ([{"class": 0, "box": BOX, "is_group": "no"}], "true or false"),
    ],
)
def test_every_mistake_in_a_layout_file_is_named(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_layout(write(tmp_path, rows), ("cat", "dog"))
    assert "\n" not in str(caught.value) and "layout.json" in str(caught.value)


def test_a_missing_layout_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="layout.json is not a file"):
        read_layout(tmp_path / "layout.json")


def test_a_drawn_layout_has_a_frame_round_every_box():
    layout = layout_of((0.25, 0.25, 0.5, 0.5), classes=[1])
    picture = draw_layout(layout, 128, ("cat", "dog"))
    assert picture.shape == (128, 128, 3) and picture.dtype == np.uint8
    coloured = (picture < 255).any(-1)
    assert coloured[94:97, 32:96].any() and coloured[32:96, 94:97].any()
    assert not coloured[:30].any() and not coloured[100:].any()
    under = np.zeros((64, 64, 3), np.uint8)
    assert (draw_layout(layout, 128, (), under)[:30] == 0).all()


@pytest.mark.parametrize("number", [0, 2**31])
def test_impossible_numbers_of_objects_are_refused(number):
    with pytest.raises(ValueError, match=f"no layout of {number} objects.*1 to 10000"):
        LayoutVocabulary(8, number)
