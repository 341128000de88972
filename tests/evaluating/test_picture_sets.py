"""Where evaluated pictures come from: folders, npz files, sources, models."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.sources import open_source
from ldm_jax.data.transforms import SquareImage
from ldm_jax.evaluating.picture_sets import from_folder, from_npz, from_source
from ldm_jax.evaluating.picture_stream import Hashed, shown

PIXELS = np.random.default_rng(0).integers(0, 256, (11, 6, 8, 3)).astype(np.uint8)


def write_pictures(folder, suffix=".png", pixels=PIXELS):
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{index:05d}{suffix}")
    return folder


def all_of(pictures, batch_size=4, share=(0, 1)):
    return np.concatenate(list(pictures.read(batch_size, share)))


def test_a_folder_is_read_as_it_is_in_the_order_of_names(tmp_path):
    found = from_folder(write_pictures(tmp_path))
    assert (found.count, found.image_size) == (11, (6, 8))
    np.testing.assert_array_equal(all_of(found), PIXELS)
    assert found.protocol["number_format"] == "uint8 png"
    np.testing.assert_array_equal(all_of(from_folder(tmp_path, limit=5)), PIXELS[:5])


def test_a_folder_of_sample_py_has_no_grid_and_tells_its_settings(tmp_path):
    write_pictures(tmp_path)
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(tmp_path / "grid.png")
    (tmp_path / "samples.json").write_text(json.dumps({"seed": 3, "steps": 50}))
    found = from_folder(tmp_path)
    assert found.count == 11
    assert found.recipe["sampling"] == {"seed": 3, "steps": 50}
    assert "rounded" in found.recipe["number_format"]


def test_jpeg_samples_are_called_lossy(tmp_path):
    found = from_folder(write_pictures(tmp_path, ".jpg"))
    assert "lossy" in found.recipe["number_format"]


def test_pictures_of_two_sizes_are_refused(tmp_path):
    write_pictures(tmp_path)
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(tmp_path / "grid.png")
    with pytest.raises(ValueError, match="grid.png has 50x50 pixels"):
        all_of(from_folder(tmp_path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_in_pieces(save, tmp_path):
    save(tmp_path / "samples.npz", PIXELS)
    found = from_npz(tmp_path / "samples.npz")
    assert (found.count, found.image_size) == (11, (6, 8))
    np.testing.assert_array_equal(all_of(found), PIXELS)
    limited = from_npz(tmp_path / "samples.npz", limit=6)
    np.testing.assert_array_equal(all_of(limited), PIXELS[:6])


def test_what_is_no_npz_of_pictures_is_refused(tmp_path):
    np.savez(tmp_path / "floats.npz", PIXELS.astype(np.float32))
    with pytest.raises(ValueError, match="float32"):
        from_npz(tmp_path / "floats.npz")
    (tmp_path / "broken.npz").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="cannot be read"):
        from_npz(tmp_path / "broken.npz")
    with pytest.raises(FileNotFoundError, match="missing.npz"):
        from_npz(tmp_path / "missing.npz")


@pytest.mark.parametrize("kind", ["folder", "npz", "source"])
def test_processes_share_the_pictures(kind, tmp_path):
    if kind == "npz":
        np.savez(tmp_path / "samples.npz", PIXELS)
        pictures = from_npz(tmp_path / "samples.npz")
    elif kind == "folder":
        pictures = from_folder(write_pictures(tmp_path))
    else:
        pictures = from_source("emoji64:val", SquareImage(16), limit=11)
    whole = all_of(pictures)
    shares = [all_of(pictures, 3, (i, 2)) for i in range(2)]
    together = np.concatenate(shares)
    assert [len(share) for share in shares] == [6, 5]
    assert sorted(x.tobytes() for x in together) == sorted(x.tobytes() for x in whole)


def test_a_source_gives_the_training_pictures_without_chance():
    transform = SquareImage(64, crop="random", flip_rate=0.5)
    pictures = from_source("emoji64:val", transform)
    source = open_source("emoji64:val")
    whole = all_of(pictures, 64)
    assert pictures.count == len(whole) == len(source) == 170
    np.testing.assert_array_equal(whole[[0, 77]], [source[i]["image"] for i in (0, 77)])
    expected = {"split": "val", "crop": "center", "resize": "smallest"}
    assert expected.items() <= pictures.protocol.items()


def test_a_limited_source_is_a_stated_random_choice():
    whole = from_source("emoji64:val", SquareImage(16))
    some = from_source("emoji64:val", SquareImage(16), limit=20, seed=1)
    again = from_source("emoji64:val", SquareImage(16), limit=20, seed=1)
    other = from_source("emoji64:val", SquareImage(16), limit=20, seed=2)
    pixels = all_of(some)
    assert len(pixels) == some.count == 20
    np.testing.assert_array_equal(pixels, all_of(again))
    assert np.any(pixels != all_of(other))
    assert {x.tobytes() for x in pixels} <= {x.tobytes() for x in all_of(whole)}
    assert (some.recipe["subset_seed"], some.recipe["source_count"]) == (1, 170)
    assert some.recipe["fingerprint"] != other.recipe["fingerprint"]


def test_unreadable_pictures_are_left_out(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "00004.png").write_bytes(b"broken")
    found = all_of(from_source(f"folder:{tmp_path}", SquareImage(6)))
    assert len(found) == 10


def test_the_hash_is_that_of_the_pixels_whatever_the_batches(tmp_path):
    pictures = from_folder(write_pictures(tmp_path))
    hashes = []
    for batch_size in (2, 11):
        hashed = Hashed(shown(pictures.batches(batch_size), 11, "test"))
        assert sum(len(batch) for batch in hashed) == 11
        hashes.append(hashed.sha256)
    assert hashes[0] == hashes[1]
    changed = PIXELS.copy()
    changed[5, 0, 0, 0] ^= 1
    hashed = Hashed([changed])
    list(hashed)
    assert hashed.sha256 != hashes[0]
