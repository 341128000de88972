"""How feature networks are run."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax.features.base import FeatureNetwork, in_groups


def double(params, pixels):
    """A stand-in for a network; it is traced with a group or with the whole batch."""
    assert len(pixels) in (1, 2, 8)
    return {
        "pool": pixels.sum(axis=(1, 2)) * params,
        "logits": pixels[:, 0, 0] + params,
    }


def pixels(num_images):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (num_images, 4, 3, 3), np.uint8)


@pytest.mark.parametrize("num_images", [1, 2, 7, 8])
def test_groups_of_images_give_what_one_batch_gives(num_images):
    images = pixels(num_images)
    grouped = jax.jit(in_groups(double, 2))(2.0, images)
    np.testing.assert_allclose(grouped["pool"], images.sum(axis=(1, 2)) * 2.0)
    np.testing.assert_allclose(grouped["logits"], images[:, 0, 0] + 2.0)


def test_a_sharded_batch_is_grouped_alike():
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    images = pixels(8)
    sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    grouped = jax.jit(in_groups(double, 2))(2.0, sharded)
    np.testing.assert_allclose(grouped["pool"], images.sum(axis=(1, 2)) * 2.0)


def test_accelerators_take_the_whole_batch(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    images = pixels(8)
    program = str(jax.make_jaxpr(in_groups(double, 2))(2.0, images))
    assert "scan" not in program and "while" not in program


def test_only_weights_with_the_published_checksum_count_as_published():
    def network(found, published):
        return FeatureNetwork("n", {}, double, found, published_sha256=published)

    assert network("a", "a").is_published
    assert not network("a", "b").is_published
    assert not network("", "").is_published
