"""Choices that concern encoder and decoder, whatever the bottleneck."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_autoencoder import TINY, call, image, random_params, shapes_of

from ldm_jax import trees
from ldm_jax.autoencoders import KLAutoencoder

PARAMS = random_params(KLAutoencoder(**TINY))


def test_remat_changes_no_gradient():
    def encoder_gradient(**choice):
        module = KLAutoencoder(**TINY, **choice)

        def loss(encoder):
            params = PARAMS | {"encoder": encoder}
            moments = module.apply({"params": params}, image(), method="encode_moments")
            return jnp.square(moments).mean()

        jaxpr = str(jax.make_jaxpr(jax.grad(loss))(PARAMS["encoder"]))
        return jax.jit(jax.grad(loss))(PARAMS["encoder"]), "remat" in jaxpr

    plain, plain_recomputes = encoder_gradient()
    remat, remat_recomputes = encoder_gradient(remat="blocks")
    assert (plain_recomputes, remat_recomputes) == (False, True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, remat)


def test_bfloat16_is_close_and_its_borders_are_float32():
    def reconstruct(module, x):
        moments = module.encode(x).moments
        return moments, module.to_image(module.decode_features(moments[..., :3]))

    exact = call(KLAutoencoder(**TINY), PARAMS, image(), method=reconstruct)
    module = KLAutoencoder(**TINY, dtype=jnp.bfloat16)
    rough = call(module, PARAMS, image(), method=reconstruct)
    for a, b in zip(rough, exact, strict=True):
        assert a.dtype == jnp.float32
        assert 1e-5 < jnp.abs(a - b).max() / jnp.abs(b).max() < 0.03


def test_attention_is_where_the_nominal_resolution_says():
    def attention_paths(**choice):
        names = trees.flatten(shapes_of(KLAutoencoder(**TINY | choice)))
        paths = (name.rpartition("/norm")[0] for name in names if "attn" in name)
        return set(paths) - {""}

    middle = {"encoder/mid/attn_1", "decoder/mid/attn_1"}
    level = {"encoder/down_1/attn_0", "decoder/up_1/attn_0", "decoder/up_1/attn_1"}
    assert attention_paths() == middle
    assert attention_paths(attn_resolutions=(8,)) == middle | level
    assert attention_paths(attn_resolutions=(8,), resolution=32) == middle
    assert attention_paths(mid_attention=False) == set()


def test_widths_that_groups_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="8 channels into 32 groups"):
        shapes_of(KLAutoencoder(**TINY | {"num_groups": 32}))
