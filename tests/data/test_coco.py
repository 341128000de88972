"""Boxes from COCO-format files: paired with pictures, filtered once, mistakes named."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.coco import WithBoxes
from ldm_jax.data.layouts import decode_tokens
from ldm_jax.data.layouts.tokens import TokenizeLayout
from ldm_jax.data.sources import open_source
from ldm_jax.data.transforms import Chain, SquareImage

NAMES = ("a/1.png", "a/2.png", "b/3.png", "b/4.png")
SIZES = ((40, 20), (20, 40), (32, 32), (32, 32))  # width, height


@pytest.fixture
def pictures(tmp_path):
    """Four pictures, each with a box of its own colour."""
    for name, (width, height) in zip(NAMES, SIZES, strict=True):
        pixels = np.full((height, width, 3), 255, np.uint8)
        pixels[4:12, 2:18] = (250, 0, 0)
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return open_source(f"folder:{tmp_path / 'pictures'}")


def instances(*boxes, names=NAMES, **changes):
    """An instances file: the objects of each box are `(image, category, bbox)`."""
    images = [
        {"id": 10 + i, "file_name": name, "width": w, "height": h}
        for i, (name, (w, h)) in enumerate(zip(names, SIZES, strict=True))
    ]
    annotations = [
        {"id": i, "image_id": 10 + image, "category_id": category, "bbox": list(box)}
        | dict(*flags)
        for i, (image, category, box, *flags) in enumerate(boxes)
    ]
    categories = [{"id": 3, "name": "person"}, {"id": 90, "name": "brush"}]
    return {
        "images": images,
        "annotations": annotations,
        "categories": categories,
    } | changes


RED = (2, 4, 16, 8)
TWICE = [(i, c, RED) for i in range(4) for c in (3, 90)]


def write(tmp_path, tables):
    path = tmp_path / "instances.json"
    path.write_text(tables if isinstance(tables, str) else json.dumps(tables))
    return path


def test_pictures_get_their_boxes_as_shares_of_their_size(pictures, tmp_path):
    boxes = [
        (1, 90, RED, {"iscrowd": 1}),
        (1, 3, (0, 30, 50, 50), {"is_occluded": 1, "is_inside": -1}),
        (3, 3, RED),
        (3, 3, (0, 0, 32, 32), {"is_group": 1}),
    ]
    source = WithBoxes(pictures, write(tmp_path, instances(*boxes)))
    assert len(source) == 2 and source.class_names == ("person", "brush")
    example = source[0]
    assert example["name"] == "a/2.png" and example["index"] == 0
    assert "class_label" not in example and source[1]["index"] == 1
    layout = example["layout"]
    np.testing.assert_allclose(layout.boxes[0], [0.1, 0.1, 0.8, 0.2], rtol=1e-6)
    np.testing.assert_allclose(layout.boxes[1], [0, 0.75, 1, 0.25])  # cut off
    assert layout.classes.tolist() == [1, 0]
    assert layout.is_group.tolist() == [True, False]
    assert layout.is_occluded.tolist() == [False, True] and not layout.is_inside.any()
    assert source[1]["layout"].is_group.tolist() == [False, True]
    annotation = source.annotation(0)
    assert annotation["layout"] == layout and "image" not in annotation


def test_only_pictures_with_enough_objects_of_some_size_are_there(pictures, tmp_path):
    boxes = [
        *[(0, 3, RED)],
        *[(1, 3, RED), (1, 3, RED), (1, 90, (0, 0, 1, 1)), (1, 3, (5, 5, 0, 9))],
        *[(2, 3, RED)] * 4,
        *[(3, 3, RED)] * 3,
    ]
    path = write(tmp_path, instances(*boxes))

    def names(**fields):
        source = WithBoxes(pictures, path, **fields)
        return [source[i]["name"] for i in range(len(source))]

    assert names() == list(NAMES[1:])
    assert names(num_objects=(3, 3)) == [NAMES[1], NAMES[3]]
    assert names(num_objects=(3, 3), min_object_area=0.01) == [NAMES[3]]
    assert names(num_objects=(1, 1)) == [NAMES[0]]
    with pytest.raises(ValueError, match=r"5 to 9 objects.*config.data.num_objects"):
        names(num_objects=(5, 9))


def test_the_last_part_of_a_name_will_do_where_it_is_unique(pictures, tmp_path):
    names = ("1.png", "elsewhere/2.png", "x/3.png", "b/4.png")
    source = WithBoxes(pictures, write(tmp_path, instances(*TWICE, names=names)))
    assert [source[i]["name"] for i in range(len(source))] == list(NAMES)
    names = ("x/1.png", "y/1.png", "3.png", "z/3.png")
    Image.new("RGB", (8, 8)).save(pictures.reader.root / "a/3.png")
    more = open_source(pictures.spec)
    with pytest.raises(ValueError, match=r"names 'x/1.png' where .* has 'a/1.png'"):
        WithBoxes(more, write(tmp_path, instances(*TWICE, names=names)))


def test_an_unreadable_picture_is_replaced_by_the_next_with_its_own_boxes(
    pictures, tmp_path
):
    boxes = [(0, 3, RED), (0, 3, RED), (3, 90, RED), (3, 90, RED)]
    (pictures.reader.root / NAMES[0]).write_bytes(b"no picture")
    source = WithBoxes(pictures, write(tmp_path, instances(*boxes)))
    example = source[0]
    assert example["name"] == NAMES[3] and example["index"] == 1
    assert example["layout"].classes.tolist() == [1, 1]
    assert list(source.corrupt) == [NAMES[0]]
    with pytest.raises(IndexError):
        source[2]


def test_boxes_follow_the_crop_and_the_flip_of_their_picture(pictures, tmp_path):
    boxes = [(i, 3, RED) for i in range(4)]
    path = write(tmp_path, instances(*boxes))
    source = WithBoxes(pictures, path, num_objects=(1, 9))
    tokenize = TokenizeLayout(2, 3, 8192, encode_crop=False)
    square = SquareImage(64, crop="random", flip_rate=0.5)
    flips = []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        result = Chain((square, tokenize))(source[seed % 4], generator)
        boxes = decode_tokens(result["tokens"], tokenize)[0].boxes * 64
        red = result["image"][..., 1] < 0
        if not len(boxes):  # the crop is below it
            assert red.mean() < 0.02
            continue
        x, y, width, height = boxes[0]
        rows, columns = (np.flatnonzero(red.any(axis)) for axis in (1, 0))
        seen = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        np.testing.assert_allclose(seen, (x, y, x + width, y + height), atol=1.6)
        flips.append(int(result["flip"]))
    assert 5 < sum(flips) < len(flips) - 5 > 20


def test_the_fingerprint_changes_with_file_and_choice(pictures, tmp_path):
    path = write(tmp_path, instances(*TWICE))
    prints = {WithBoxes(pictures, path).fingerprint()}
    assert WithBoxes(pictures, path).fingerprint() in prints
    prints.add(WithBoxes(pictures, path, num_objects=(2, 9)).fingerprint())
    moved = [(i, c, (3, 4, 16, 8)) for i, c, _ in TWICE]
    prints.add(WithBoxes(pictures, write(tmp_path, instances(*moved))).fingerprint())
    assert len(prints) == 3 and pictures.fingerprint() not in prints


def test_a_pickled_source_needs_the_file_no_more(pictures, tmp_path):
    path = write(tmp_path, instances(*TWICE))
    source = WithBoxes(pictures, path)
    copy = pickle.dumps(source)
    path.unlink()
    assert pickle.loads(copy)[2]["layout"] == source[2]["layout"]


UNKNOWN = [{"image_id": 99, "category_id": 3, "bbox": RED}]


@pytest.mark.parametrize(
    "tables, message",
    [
        ("{", "no instances json in COCO's format"),
        ([1], "no instances json"),
        ({"images": [], "annotations": []}, "no 'categories'"),
        (instances(images=[{"id": 1, "file_name": "a"}]), "no 'width'"),
        (instances(annotations=UNKNOWN), "unknown image_id 99"),
        (instances((0, 4, RED)), "unknown category 4"),
        (instances((0, 3, (1, 2, 3))), r"image 10 has bbox \[1, 2, 3\]"),
        (instances((0, 3, (1, 2, 3, "x"))), "could not convert"),
        (instances((0, 3, (1, 2, 3, float("nan")))), "bbox"),
        (
            instances(images=[{"id": 1, "file_name": "a", "width": 0, "height": 2}]),
            "no width",
        ),
        (instances(*TWICE, names=("a/1.png",) * 4), "names 'a/1.png' twice"),
        (instances(names=("p", "q", "r", "s")), "no boxes for any picture"),
    ],
)
def test_every_mistake_in_an_instances_file_is_named(
    pictures, tmp_path, tables, message
):
    with pytest.raises(ValueError, match=message) as caught:
        WithBoxes(pictures, write(tmp_path, tables))
    assert "\n" not in str(caught.value) and "instances.json" in str(caught.value)


def test_a_missing_file_is_named(pictures, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.data.layout=.*not a file"):
        WithBoxes(pictures, tmp_path / "instances.json")
