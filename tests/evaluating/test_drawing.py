"""Drawing for evaluation gives the pictures of `Model.sample`, in the paper's form too."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_latent_diffusion import (
    tiny_batch,
    tiny_class_conditioner,
    tiny_model,
    tiny_params,
)

from ldm_jax.evaluating.drawing import drawn, truncated
from ldm_jax.model import Model

SECTION = {
    "name": "ddim",
    "num_steps": 2,
    "grid": "trailing",
    "final": "clean",
    "eta": 0.0,
    "guidance_scale": 2.0,
    "guidance_rescale": 0.0,
    "guidance_interval": (0.0, 1.0),
}


@functools.cache
def class_model():
    """Pictures of 8x8 by class, guided."""
    ldm = tiny_model(conditioner=tiny_class_conditioner())
    params, frozen = tiny_params(ldm, tiny_batch())
    return Model(
        config=ConfigDict({"sampler": SECTION, "data": {"image_size": 8}}),
        ldm=ldm,
        params={**frozen, **params, "latent_scale": jnp.float32(0.8)},
    )


@pytest.fixture(scope="module")
def model():
    return class_model()


def all_of(pictures, batch_size, share=(0, 1)):
    return np.concatenate(list(pictures.read(batch_size, share)))


def test_pictures_are_those_of_sample_whatever_the_batches(model):
    num_classes = model.ldm.conditioner.num_classes
    labels = [k % num_classes for k in range(10)]
    expected = model.sample(10, seed=3, class_labels=labels)
    pictures = drawn(model, 10, seed=3)
    for batch_size in (8, 4):
        found = all_of(pictures, batch_size).astype(int)
        assert np.abs(found - expected).max() <= 1
    assert pictures.count == 10
    assert pictures.recipe["class_labels"] == "all in turn"
    assert pictures.recipe["sampling"]["guidance_scale"] == 2.0


def test_processes_draw_each_its_own_share(model):
    pictures = drawn(model, 10)
    whole = all_of(pictures, 4).astype(int)
    shares = [all_of(pictures, 4, (i, 2)).astype(int) for i in range(2)]
    rows = np.r_[0:4, 8:10], np.r_[4:8]
    for share, mine in zip(shares, rows, strict=True):
        assert np.abs(share - whole[mine]).max() <= 1


def test_settings_of_the_sampler_reach_it(model):
    fewer = drawn(model, 4, settings={"steps": 3, "guidance_scale": 1.0})
    assert np.any(all_of(fewer, 4) != all_of(drawn(model, 4), 4))
    with pytest.raises(ValueError, match="no colour"):
        drawn(model, 4, settings={"colour": 1})


def test_truncating_is_half_a_level_darker():
    image = np.linspace(-1, 1, 10_001, dtype=np.float32).reshape(1, 73, 137, 1)
    exact = (image + 1) * 127.5
    found = np.asarray(truncated(image)).astype(float)
    assert (exact - found).mean() == pytest.approx(0.5, abs=0.01)
    assert (found.min(), found.max()) == (0, 255)
