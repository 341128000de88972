"""Composed scenes: what they say of themselves is what is drawn."""

import pickle

import numpy as np
import pytest

from ldm_jax.data.pipeline import make_loader
from ldm_jax.data.sources import open_source

CAPTION = (
    "bell with cancellation stroke, front-facing baby chick, south east arrow and "
    "admission tickets"
)


@pytest.fixture(scope="module")
def scenes():
    return open_source("emoji_scenes")


def test_a_scene_depends_on_split_and_index_alone(scenes):
    scenes[3]  # has decoded some drawings by now
    again = pickle.loads(pickle.dumps(open_source("emoji_scenes:train", split="val")))
    for index in (41, 7):
        ours, theirs = scenes[index], again[index]
        assert (ours["image"] == theirs["image"]).all()
        assert ours["layout"] == theirs["layout"]
        assert ours["name"] == theirs["name"] == f"train/{index:04d}.png"
    assert len(pickle.dumps(scenes)) < 1000


def test_splits_are_apart_and_all_is_both(scenes):
    val = open_source("emoji_scenes", split="val")
    both = open_source("emoji_scenes:all")
    assert (len(scenes), len(val), len(both)) == (6000, 500, 6500)
    assert (both[6001]["image"] == val[1]["image"]).all()
    assert both[6001]["name"] == val[1]["name"] == "val/0001.png"
    assert both[6001]["index"] == 6001
    prints = {source.fingerprint() for source in (scenes, val, both)}
    assert len(prints) == 3 and scenes.fingerprint() in prints
    with pytest.raises(IndexError, match="500 of 500"):
        val[500]
    with pytest.raises(ValueError, match="no split 'test'"):
        open_source("emoji_scenes:test")


def test_boxes_are_tight_round_what_is_drawn_in_their_class(scenes):
    for index in range(50):
        scene = scenes[index]
        layout, labels = scene["layout"], scene["segmentation"]
        boxes = (layout.boxes * 64).round().astype(int)
        np.testing.assert_array_equal(boxes, layout.boxes * 64)
        inside = np.zeros((64, 64), bool)
        for (x, y, width, height), label in zip(boxes, layout.classes, strict=True):
            window = labels[y : y + height, x : x + width]
            assert window.shape == (height, width) and (window == label).any()
            inside[y : y + height, x : x + width] = True
        assert (labels[~inside] == 8).all()
        for (x, y, width, height), label in zip(boxes, layout.classes, strict=True):
            drawn = labels[y : y + height, x : x + width] == label
            for edge in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
                assert edge.any()


def test_the_background_is_white_and_drawings_are_not(scenes):
    for index in range(50):
        image, labels = scenes[index]["image"], scenes[index]["segmentation"]
        assert (image[labels == 8] == 255).all()
        assert (image[labels < 8] < 250).any(-1).mean() > 0.5
        assert 0.1 < (labels < 8).mean() < 0.8


def test_classes_are_even_and_boxes_share_nothing_but_no_grid_either(scenes):
    layouts = [scenes[index]["layout"] for index in range(400)]
    counts = np.bincount([layout.num_objects for layout in layouts])
    assert counts[2:].min() > 100 and len(counts) == 5
    classes = np.bincount(np.concatenate([layout.classes for layout in layouts]))
    assert len(classes) == 8 and classes.min() > 0.75 * classes.mean()
    covers = np.zeros((64, 64), int)
    for layout in layouts:
        alone = np.zeros((64, 64), int)
        for x, y, width, height in (layout.boxes * 64).astype(int):
            alone[y : y + height, x : x + width] += 1
        assert alone.max() == 1
        covers += alone
    # The four quarters are as likely, and within each a drawing is here or there.
    quarters = covers.reshape(2, 32, 2, 32).sum((1, 3))
    assert quarters.min() > 0.85 * quarters.mean()
    corners = {tuple(box[:2]) for layout in layouts for box in layout.boxes}
    assert len(corners) > 200


def test_the_caption_lists_the_drawings(scenes):
    scene = scenes[4]
    assert scene["caption"] == CAPTION
    names = [scenes.class_names[label] for label in scene["layout"].classes]
    assert names == ["Objects", "Animals & Nature", "Symbols", "Activities"]
    annotation = scenes.annotation(4)
    assert annotation.keys() == {"name", "layout", "segmentation", "caption"}
    assert annotation["layout"] == scene["layout"]


def test_scenes_go_through_loader_workers_alike(scenes):
    def first_batch(num_workers):
        loader = make_loader(
            scenes, keep, batch_size=4, seed=0, num_workers=num_workers
        )
        try:
            return next(loader)
        finally:
            loader.close()

    plain, forked = first_batch(0), first_batch(1)
    assert plain.keys() == {"image", "index", "segmentation"}
    for name, value in plain.items():
        np.testing.assert_array_equal(value, forked[name])


def keep(example, generator):
    del generator
    return example
