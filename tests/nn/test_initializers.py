"""The two ways to start a training."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import trees
from ldm_jax.autoencoders import KLAutoencoder
from ldm_jax.nn.initializers import INITS
from ldm_jax.nn.transformer import Transformer


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


def test_unit_gain_lets_the_tokens_of_a_text_be_heard():
    """What two texts of other words differ in is lost among what they share in torch's."""
    module = Transformer(32, 1, num_heads=2, head_dim=16, vocab_size=64, max_length=8)
    tokens = jax.random.randint(jax.random.key(1), (16, 8), 0, 64)
    params = jax.jit(module.init)(jax.random.key(0), tokens)["params"]
    share = {}
    for name, rescale in INITS.items():
        encoded = module.apply({"params": rescale(params)}, tokens)
        share[name] = float(encoded.var(axis=(0, 1)).mean() / encoded.var())
    assert share["unit_gain"] > 0.7 and share["torch"] < 0.5
