import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.segmentation_maps import WithSegmentation, read_labels
from ldm_jax.data.sources import open_source
from ldm_jax.data.transforms import SquareImage

NAMES = ("a/1.jpg", "a/2.png", "b/3.webp")


@pytest.fixture
def world(tmp_path):
    """Pictures, and label maps whose values tell which picture they are of."""
    for index, name in enumerate(NAMES):
        picture = tmp_path / "pictures" / name
        labels = tmp_path / "labels" / f"{name.rpartition('.')[0]}.png"
        for path in (picture, labels):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + index, 8)).save(picture)
        Image.new("L", (8 + index, 8), 10 + index).save(labels)
    return tmp_path


def opened(world):
    source = open_source(f"folder:{world / 'pictures'}")
    return WithSegmentation(source, world / "labels")


def test_maps_are_found_by_the_pictures_names(world):
    source = pickle.loads(pickle.dumps(opened(world)))
    assert len(source) == 3 and source.class_names == ("a", "b")
    for index in range(3):
        example = source[index]
        assert example["segmentation"].dtype == np.int32
        assert example["segmentation"].shape == (8, 8 + index)
        assert set(example["segmentation"].flat) == {10 + index}
    square = SquareImage(4)(source[2], np.random.default_rng(0))
    assert square["segmentation"].shape == (4, 4)


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "1"])
def test_values_of_grey_and_indices_of_palettes_are_the_labels(mode, tmp_path):
    highest = {"L": 255, "P": 180, "I;16": 40_000, "1": 1}[mode]
    values = np.array([[0, 1], [highest, highest]])
    dtype = {"I;16": np.uint16, "1": bool}.get(mode, np.uint8)
    picture = Image.fromarray(values.astype(dtype))
    if mode == "P":
        picture = picture.convert("L").convert("P")
        picture.putdata(values.flatten().tolist())
        picture.putpalette(list(range(255, -1, -1)) * 3)
    picture.save(tmp_path / "map.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "map.png"), values)


def test_a_missing_map_names_the_first_picture(world):
    (world / "labels/a/2.png").unlink()
    (world / "labels/b/3.png").unlink()
    with pytest.raises(ValueError, match="a/2.png of folder:.* has no label map"):
        opened(world)
    with pytest.raises(FileNotFoundError, match="config.data.segmentation"):
        WithSegmentation(open_source(f"folder:{world / 'pictures'}"), world / "none")


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (Image.new("L", (9, 8)), "has 8x9 pixels but its picture a/1.jpg has 8x8"),
        (Image.new("RGB", (8, 8)), "is a colour picture"),
    ],
)
def test_a_map_that_cannot_belong_to_its_picture_is_named(picture, says, world):
    picture.save(world / "labels/a/1.png")
    source = opened(world)
    with pytest.raises(ValueError, match=f"labels/a/1.png {says}") as caught:
        source[0]
    assert "\n" not in str(caught.value)


def test_a_map_that_cannot_be_read_is_skipped_with_its_picture(world):
    path = world / "labels/a/1.png"
    path.write_bytes(path.read_bytes()[:40])
    source = opened(world)
    example = source[0]
    assert (example["index"], example["name"]) == (1, "a/2.png")
    assert set(example["segmentation"].flat) == {11}
    assert list(source.corrupt) == ["a/1.png"]
    shutil.copy(path, world / "labels/a/2.png")
    with pytest.raises(ValueError, match="too many unreadable"):
        source[1]


def test_the_fingerprint_follows_pictures_and_maps(world):
    before = opened(world).fingerprint()
    assert before == opened(world).fingerprint() != opened(world).source.fingerprint()
    Image.new("L", (8, 8), 99).save(world / "labels/a/1.png")
    assert opened(world).fingerprint() != before
