"""Conditions as pictures: previews of every kind of condition that can be seen."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.parts import conditioners
from ldm_jax.condition_pictures import colour_labels, condition_pictures
from ldm_jax.data.layouts import Layout, LayoutVocabulary, layout_tokens

NOTHING = ConfigDict({"conditioner": {"name": "none"}})
IMAGE = np.zeros((2, 32, 32, 3), np.float32)


def shown(config=NOTHING, class_names=(), **fields):
    return condition_pictures(config, {"image": IMAGE, **fields}, class_names)


def test_a_small_picture_is_enlarged_pixel_by_pixel():
    low_res = np.linspace(-1, 1, 2 * 8 * 8 * 3, dtype=np.float32).reshape(2, 8, 8, 3)
    pixels = shown(low_res=low_res)
    assert pixels.shape == (2, 32, 32, 3) and pixels.dtype == np.uint8
    expected = np.rint((low_res + 1) * 127.5).repeat(4, 1).repeat(4, 2)
    np.testing.assert_array_equal(pixels, expected)


def test_holes_and_labels_are_seen():
    np.testing.assert_array_equal(shown(masked_image=IMAGE - 1), np.zeros(IMAGE.shape))
    labels = np.arange(2 * 32 * 32).reshape(2, 32, 32) // 1024
    pixels = shown(segmentation=labels)
    assert len(np.unique(pixels[0].reshape(-1, 3), axis=0)) == 1
    assert not np.array_equal(pixels[0, 0, 0], pixels[1, 0, 0])


def test_labels_have_colours_of_their_own_and_no_class_is_black():
    colours = colour_labels(np.arange(182)[None])[0]
    assert len(np.unique(colours, axis=0)) == 182
    assert colours.max(axis=1).min() == 255  # none of them is dark
    assert not colour_labels(np.array([[255, -1]])).any()


@pytest.mark.parametrize("crop", [(0, 0, 1, 1), (0.5, 0, 1, 0.5)])
def test_a_layout_is_drawn_as_the_crop_shows_it(crop):
    config = ConfigDict(
        {
            "conditioner": conditioners.token_transformer(
                embed_dim=8, num_layers=1, vocab_size=8192, max_length=8
            ),
            "tokenizer": conditioners.layout_tokenizer(max_objects=2),
        }
    )
    layout = Layout(np.array([[0.5, 0.0, 0.5, 0.5]]), np.array([1]))
    tokens = layout_tokens(layout, LayoutVocabulary(2, max_objects=2), crop)
    pixels = shown(config, ("cat", "dog"), tokens=np.stack([tokens, tokens]))
    drawn = (pixels[0] < 250).any(-1)
    assert drawn[0, -1] and drawn[0, 16:].all()
    assert drawn[:, 0].any() == (crop[0] > 0)  # the box then fills the crop
    assert shown(config, tokens=tokens[None]) is None  # nobody knows its classes


def test_texts_and_classes_are_not_pictures():
    assert shown() is None
    assert shown(tokens=np.zeros((2, 4), np.int32), class_label=np.zeros(2)) is None
