from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from ldm_jax.data import latent_cache
from ldm_jax.data.latent_cache import (
    ChooseFlip,
    LatentSource,
    cache_key,
    open_latent_cache,
    write_latent_cache,
)
from ldm_jax.data.pipeline import eval_batches, make_loader
from ldm_jax.data.retrieval import LookUpNeighbors
from ldm_jax.data.sources import open_source
from ldm_jax.data.transforms import (
    Chain,
    PreparePicture,
    SquareImage,
    Tokenize,
    WithMirror,
)

KEY = cache_key(params="abc", image_size=16)


@pytest.fixture(scope="module")
def source():
    return open_source("emoji64", split="val")


def fake_encode(image):
    """Every fourth pixel, twice over: [..., H, W, 3] -> [..., h, w, 6]."""
    corner = image[..., ::4, ::4, :]
    return np.concatenate([corner, -corner], -1)


def encoded_pairs(source, batch_size=32):
    pairs = eval_batches(source, WithMirror(SquareImage(16)), batch_size=batch_size)
    for batch in pairs:
        yield {"moments": fake_encode(batch["image"]), "index": batch["index"]}


@pytest.fixture(scope="module")
def cache(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    pairs = encoded_pairs(source)
    return write_latent_cache(folder, KEY, pairs, length=len(source))


def test_a_cache_holds_both_directions_of_every_picture(cache, source):
    assert cache.moments.shape == (170, 2, 4, 4, 6)
    assert cache.moments.dtype == np.float32
    np.testing.assert_array_equal(cache.index, range(170))


def test_cached_latents_come_with_the_pictures_and_flips_of_the_image_loader(
    cache, source
):
    options = {"batch_size": 8, "seed": 5, "start_step": 20}
    square = SquareImage(16, flip_rate=0.5)
    flips = []
    with (
        closing(make_loader(source, square, **options)) as images,
        closing(
            make_loader(LatentSource(cache, source), ChooseFlip(0.5), **options)
        ) as latents,
    ):
        for _ in range(6):
            image, latent = next(images), next(latents)
            assert latent.keys() == {"moments", "index", "flip", "class_label"}
            for name in ("index", "flip", "class_label"):
                np.testing.assert_array_equal(latent[name], image[name])
            np.testing.assert_array_equal(
                latent["moments"], fake_encode(image["image"])
            )
            flips.extend(image["flip"])
    assert 0 < sum(flips) < len(flips)


def test_without_flips_the_picture_itself_is_taken(cache, source):
    (first, *_) = eval_batches(LatentSource(cache, source), ChooseFlip(), batch_size=4)
    assert "flip" not in first
    np.testing.assert_array_equal(first["moments"], cache.moments[:4, 0])


def test_a_cache_is_reused_for_its_key_alone(cache, source):
    def never():
        raise AssertionError("encoded again")
        yield

    again = write_latent_cache(cache.folder, KEY, never(), length=len(source))
    np.testing.assert_array_equal(again.moments, cache.moments)
    other = cache_key(params="abd", image_size=16)
    assert other != KEY and open_latent_cache(cache.folder, other) is None
    assert cache_key(image_size=16, params="abc") == KEY


def test_an_interrupted_cache_leaves_nothing_behind(source, tmp_path):
    def interrupted():
        yield next(encoded_pairs(source))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_latent_cache(tmp_path, KEY, interrupted(), length=len(source))
    assert list(tmp_path.iterdir()) == []
    assert open_latent_cache(tmp_path, KEY) is None


def test_a_cut_file_is_not_taken_for_a_cache(source, tmp_path):
    write_latent_cache(tmp_path, KEY, encoded_pairs(source), length=170)
    (file,) = tmp_path.glob("*.moments.npy")
    file.write_bytes(file.read_bytes()[:-100])
    assert open_latent_cache(tmp_path, KEY) is None
    fresh = write_latent_cache(tmp_path, KEY, encoded_pairs(source), length=170)
    assert fresh.moments.shape == (170, 2, 4, 4, 6)


def test_too_few_batches_or_too_small_a_disk_are_one_sentence(
    source, tmp_path, monkeypatch
):
    pairs = [next(encoded_pairs(source))]
    with pytest.raises(ValueError, match="got 32 of 170"):
        write_latent_cache(tmp_path, KEY, pairs, length=170)
    full = SimpleNamespace(free=10)
    monkeypatch.setattr(latent_cache.shutil, "disk_usage", lambda path: full)
    with pytest.raises(ValueError, match="GB free: make room"):
        write_latent_cache(tmp_path, KEY, pairs, length=32)
    assert list(tmp_path.iterdir()) == []


def test_captions_and_neighbours_are_made_of_cached_latents_too(
    cache, source, tmp_path
):
    random = np.random.default_rng(0)
    np.save(tmp_path / "embeddings.npy", random.normal(size=(9, 4)).astype(np.float16))
    np.save(tmp_path / "table.npy", random.integers(0, 9, (170, 2), np.int32))
    conditions = (
        Tokenize(lambda texts: np.array([[len(text)] for text in texts], np.int32)),
        LookUpNeighbors(tmp_path / "embeddings.npy", tmp_path / "table.npy"),
    )
    of_latents = Chain((ChooseFlip(0.5), *conditions))
    of_images = PreparePicture(SquareImage(16, flip_rate=0.5), conditions)
    options = {"batch_size": 8, "seed": 5}
    with (
        closing(
            make_loader(LatentSource(cache, source), of_latents, **options)
        ) as ours,
        closing(make_loader(source, of_images, **options)) as theirs,
    ):
        latent, image = next(ours), next(theirs)
    assert latent["neighbors"].shape == (8, 2, 4)
    for name in ("tokens", "neighbors", "flip"):
        np.testing.assert_array_equal(latent[name], image[name])
