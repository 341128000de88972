"""Group norm against torch, and its float32 statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn.normalization import GroupNorm, group_moments


@pytest.mark.parametrize("shape", [(2, 5, 7, 64), (3, 11, 32), (2, 96)])
def test_group_norm_matches_torch_for_every_rank(shape):
    torch = pytest.importorskip("torch")
    c = shape[-1]
    keys = jax.random.split(jax.random.key(0), 3)
    x = 3 * jax.random.normal(keys[0], shape) + 2
    params = {
        "scale": jax.random.normal(keys[1], (c,)),
        "bias": jax.random.normal(keys[2], (c,)),
    }
    ours = GroupNorm(32, 1e-6).apply({"params": params}, x)
    expected = torch.nn.functional.group_norm(
        torch.from_numpy(np.moveaxis(np.array(x), -1, 1).copy()),
        32,
        torch.from_numpy(np.array(params["scale"])),
        torch.from_numpy(np.array(params["bias"])),
        1e-6,
    )
    np.testing.assert_allclose(np.moveaxis(np.array(ours), -1, 1), expected, atol=3e-6)


def test_a_large_mean_does_not_cancel_the_variance():
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 32))
    norm = GroupNorm(4, 1e-6)
    variables = norm.init(jax.random.key(0), x)
    shifted = norm.apply(variables, x + 1000.0)
    np.testing.assert_allclose(shifted, norm.apply(variables, x), atol=1e-3)


@pytest.mark.parametrize("mean", [1, 30])
def test_bfloat16_input_keeps_float32_statistics(mean):
    x = mean + 0.1 * mean * jax.random.normal(jax.random.key(0), (1, 64, 64, 8))
    x = x.astype(jnp.bfloat16)
    norm = GroupNorm(2, 1e-6)
    variables = norm.init(jax.random.key(0), x)
    y = norm.apply(variables, x)
    exact = norm.apply(variables, x.astype(jnp.float32)).astype(jnp.bfloat16)
    assert y.dtype == jnp.bfloat16
    # One pass against two: hardly a value is rounded the other way.
    assert np.mean(np.asarray(y != exact)) < 1e-3
    y, exact = (np.asarray(a, np.float32) for a in (y, exact))
    np.testing.assert_allclose(y, exact, rtol=2**-7)


def test_one_pass_is_as_exact_as_bfloat16_itself_however_large_the_mean():
    """Deviations of 4 at a mean of 500 are the finest that bfloat16 has there."""
    x = 500 + 4 * jax.random.normal(jax.random.key(0), (1, 64, 64, 8))
    x = x.astype(jnp.bfloat16)
    one = group_moments(x, 2)
    two = group_moments(x.astype(jnp.float32), 2)
    np.testing.assert_allclose(one[0], two[0], rtol=1e-6)
    np.testing.assert_allclose(one[1], two[1], rtol=1e-2)


def test_gradient_for_bfloat16_is_that_for_float32():
    keys = jax.random.split(jax.random.key(0), 2)
    x = 1 + jax.random.normal(keys[0], (2, 8, 8, 8))
    g = jax.random.normal(keys[1], x.shape)
    x = x.astype(jnp.bfloat16).astype(jnp.float32)
    norm = GroupNorm(2, 1e-6, dtype=jnp.float32)
    variables = norm.init(jax.random.key(0), x)

    def gradient(x):
        return jax.grad(lambda x: (norm.apply(variables, x) * g).sum())(x)

    exact = np.asarray(gradient(x))
    ours = np.asarray(gradient(x.astype(jnp.bfloat16)), np.float32)
    np.testing.assert_allclose(ours, exact, atol=2**-8 * np.abs(exact).max())


def test_channels_that_do_not_divide_give_one_clear_sentence():
    with pytest.raises(ValueError, match="48 channels into 32 groups"):
        GroupNorm(32).init(jax.random.key(0), jnp.zeros((1, 4, 4, 48)))
