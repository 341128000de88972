"""What every entry of AUTOENCODERS promises to the rest of the package."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_autoencoder import KEY, TINY, call, image, random_params, shape_of_call

from ldm_jax import trees
from ldm_jax.autoencoders import AUTOENCODERS


@pytest.fixture(scope="module", params=sorted(AUTOENCODERS))
def module(request):
    return AUTOENCODERS[request.param](**TINY)


@pytest.fixture(scope="module")
def params(module):
    return random_params(module)


def through_bottleneck(module, x, key):
    z, loss, metrics = module.bottleneck(module.encode(x), key)
    return module.to_image(module.decode_features(z)), loss, metrics


@pytest.mark.parametrize("size", [(16, 16), (30, 33)])
def test_shapes_follow_from_the_config_and_odd_sizes_round_down(module, params, size):
    h, w = (n // 2 for n in size)
    assert module.downsampling_factor == 2
    assert module.latent_channels == 3
    latent = shape_of_call(module, params, image(*size), method="encode")
    moments = jax.eval_shape(lambda latent: latent.moments, latent)
    assert moments.dtype == jnp.float32
    z = jax.eval_shape(lambda m: type(latent).from_moments(m).sample(KEY), moments)
    assert z.shape == (2, h, w, 3)
    out = shape_of_call(module, params, z, method="decode")
    assert out.shape == (2, 2 * h, 2 * w, 3)


def test_an_image_smaller_than_one_latent_pixel_is_refused(module, params):
    with pytest.raises(ValueError, match="1x16 pixels is smaller"):
        shape_of_call(module, params, image(1, 16), method="encode")


def test_every_parameter_gets_a_finite_gradient(module, params):
    def loss(params):
        out, regulariser, _ = module.apply(
            {"params": params}, image(), KEY, method=through_bottleneck
        )
        return jnp.square(out - image()).mean() + regulariser

    gradients = trees.flatten(jax.jit(jax.grad(loss))(params))
    # A constant added to every key does not change a softmax.
    silent = {n for n, g in gradients.items() if jnp.abs(g).max() < 1e-9}
    assert silent <= {n for n in gradients if n.endswith("/k/bias")}
    assert all(jnp.isfinite(g).all() for g in gradients.values())


def test_calling_it_reconstructs_through_the_bottleneck(module, params):
    def both(module, x):
        return module(x, KEY), through_bottleneck(module, x, KEY)

    out, (expected, _, metrics) = call(module, params, image(), method=both)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    assert all(jnp.shape(value) == () for value in metrics.values())
    assert params["decoder"]["conv_out"]["kernel"].shape == (3, 3, 8, 3)
