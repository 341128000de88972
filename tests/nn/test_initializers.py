"""The two ways to start a training."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import trees
from ldm_jax.autoencoders import KLAutoencoder
from ldm_jax.nn.initializers import INITS


def start(init: str, **fields) -> dict:
    module = KLAutoencoder(3, 3, ch=8, ch_mult=(1, 2), num_groups=4, **fields)
    key = jax.random.key(0)
    variables = jax.jit(module.init)(key, jnp.zeros((1, 8, 8, 3)), key)
    return trees.flatten(INITS[init](variables["params"]))


def test_unit_gain_rescales_torchs_initial_values_by_name():
    torch, unit = start("torch"), start("unit_gain")
    assert torch.keys() == unit.keys()
    for name, value in unit.items():
        if "quant_conv" in name or name.endswith(("scale", "conv2/kernel")):
            np.testing.assert_array_equal(value, torch[name], err_msg=name)
        elif name.endswith("bias"):
            assert not np.any(value), name
        else:
            np.testing.assert_allclose(value, torch[name] * 3**0.5, err_msg=name)


def test_an_identity_start_hands_the_encoding_on_with_little_noise():
    params = start("torch", quant_init="identity")
    np.testing.assert_array_equal(params["quant_conv/kernel"], np.eye(6))
    np.testing.assert_array_equal(params["post_quant_conv/kernel"], np.eye(3))
    np.testing.assert_array_equal(params["quant_conv/bias"], [0, 0, 0, -6, -6, -6])
