"""The residual block's shortcut and dropout."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.nn.resnet import ResnetBlock


def test_a_shortcut_exists_only_when_channels_change():
    for features, has_shortcut in ((8, False), (16, True)):
        block = ResnetBlock(features, num_groups=4)
        x = jnp.zeros((1, 4, 4, 8))
        shapes = jax.eval_shape(block.init, jax.random.key(0), x)["params"]
        assert ("shortcut" in shapes) is has_shortcut


def test_dropout_is_on_exactly_when_its_stream_is_given():
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 8))
    plain = ResnetBlock(8, num_groups=4)
    block = ResnetBlock(8, num_groups=4, dropout_rate=0.5)
    variables = jax.jit(block.init)(jax.random.key(0), x)

    @jax.jit
    def dropped(key):
        return block.apply(variables, x, rngs={"dropout": key})

    np.testing.assert_array_equal(block.apply(variables, x), plain.apply(variables, x))
    a, b = dropped(jax.random.key(1)), dropped(jax.random.key(2))
    assert jnp.abs(a - b).max() > 1e-2
