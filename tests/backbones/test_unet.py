"""The denoiser U-Net by itself: initial values, precision, memory, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import trees
from ldm_jax.backbones import BACKBONES, UNet
from ldm_jax.nn.conditioning import Conditioning

TINY = {
    "out_channels": 3,
    "model_channels": 16,
    "channel_mult": (1,),
    "num_res_blocks": 1,
    "num_groups": 4,
    "num_heads": 2,
}
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 3)), jnp.float32)
T = jnp.array([0.0, 999.0])
TOKENS = Conditioning(tokens=X.reshape(2, 6, 8))


def shapes_of(unet, *inputs):
    return jax.eval_shape(lambda: unet.init(jax.random.key(0), *inputs))["params"]


def random_params(unet, *inputs):
    """No layer zero, as in the middle of training; compiles nothing."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda s: jnp.asarray(0.2 * rng.standard_normal(s.shape), s.dtype),
        shapes_of(unet, *inputs),
    )


@pytest.mark.parametrize("attention", ["plain", "transformer"])
def test_exactly_the_published_layers_start_at_zero(attention):
    unet = UNet(**TINY, attention=attention)
    cond = TOKENS if attention == "transformer" else None
    variables = unet.init(jax.random.key(0), X, T, cond)
    flat = trees.flatten(variables["params"])
    zero = {name for name, leaf in flat.items() if not np.any(leaf)}
    blocks = ["down_0/block_0", "mid/block_0", "mid/block_1"]
    blocks += ["up_0/block_0", "up_0/block_1"]
    layers = [f"{block}/conv2" for block in blocks] + [
        "conv_out",
        "mid/attention/proj_out",
    ]
    expected = {f"{layer}/{leaf}" for layer in layers for leaf in ("kernel", "bias")}
    norm_biases = {n for n in flat if "norm" in n.split("/")[-2] and n.endswith("bias")}
    assert zero == expected | norm_biases
    assert not np.any(unet.apply(variables, X, T, cond))


def test_convolutions_start_as_torch_does():
    params = UNet(**TINY).init(jax.random.key(0), X, T)["params"]
    bound = 1 / np.sqrt(9 * 16)
    conv1 = params["mid"]["block_0"]["conv1"]
    assert 0.95 * bound < np.abs(conv1["kernel"]).max() <= bound
    assert 0.5 * bound < np.abs(conv1["bias"]).max() <= bound


def test_input_and_token_widths_follow_from_the_inputs():
    unet = UNet(**TINY, attention="transformer")
    concat = jnp.zeros((2, 4, 4, 5))
    cond = Conditioning(tokens=jnp.zeros((2, 3, 7)), concat=concat)
    params = shapes_of(unet, X, T, cond)
    assert params["conv_in"]["kernel"].shape == (3, 3, 8, 16)
    attention = params["mid"]["attention"]["block_0"]["cross_attention"]
    assert attention["key"]["kernel"].shape == (7, 16)


def test_remat_and_bfloat16_agree_with_plain_float32():
    plain = UNet(**TINY, attention="transformer")
    params = random_params(plain, X, T, TOKENS)

    def run(unet):
        def loss(params):
            out = unet.apply({"params": params}, X, T, TOKENS, train=True)
            return jnp.mean(out**2), out

        grads, out = jax.jit(jax.grad(loss, has_aux=True))(params)
        assert out.dtype == jnp.float32
        flat = {name: np.asarray(leaf) for name, leaf in trees.flatten(grads).items()}
        assert all(np.all(np.isfinite(leaf)) for leaf in flat.values())
        return np.asarray(out), flat

    out, grads = run(plain)
    out_remat, grads_remat = run(plain.clone(remat="blocks"))
    np.testing.assert_allclose(out_remat, out, rtol=1e-5, atol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in grads.values())
    for name, leaf in grads.items():
        np.testing.assert_allclose(grads_remat[name], leaf, atol=1e-5 * largest)
    out_bf16, _ = run(plain.clone(dtype=jnp.bfloat16))
    error = np.linalg.norm(out_bf16 - out) / np.linalg.norm(out)
    assert 0 < error < 0.02


def test_remat_wraps_every_block_and_attention():
    unet = UNet(**TINY, attention_resolutions=(1,), remat="blocks")
    params = shapes_of(unet, X, T)

    def count(unet):
        jaxpr = jax.make_jaxpr(lambda p: unet.apply({"params": p}, X, T))(params).jaxpr
        return sum("prevent_cse" in eqn.params for eqn in jaxpr.eqns)

    assert count(unet) == 5 + 4  # residual blocks; attention: down 1, middle 1, up 2
    assert count(unet.clone(remat="none")) == 0


def test_dropout_acts_in_training_only():
    unet = UNet(**TINY, dropout=0.5)
    variables = {"params": random_params(unet, X, T)}
    apply = jax.jit(unet.apply, static_argnames="train")

    def train(seed):
        return apply(
            variables, X, T, train=True, rngs={"dropout": jax.random.key(seed)}
        )

    still = jax.jit(UNet(**TINY).apply)(variables, X, T)
    np.testing.assert_array_equal(apply(variables, X, T), still)
    np.testing.assert_array_equal(train(1), train(1))
    assert np.abs(train(1) - train(2)).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 3}, "level 0 of the U-Net has 16 channels, .*num_heads=3"),
        ({"num_heads": None}, "exactly one of .*None and None"),
        ({"num_head_channels": 8}, "exactly one of .*2 and 8"),
        ({"num_heads": None, "num_head_channels": 5}, "num_head_channels=5"),
        ({"channel_mult": (2, 4)}, r"channel_mult is \(2, 4\); it must start with 1"),
        (
            {"channel_mult": (1, 2, 4, 4)},
            "4x4 but a U-Net of 4 levels .*multiples of 8",
        ),
        ({"num_groups": 32}, "model_channels=16 must be a multiple"),
        ({"attention": "spatial"}, "backbone.attention is 'spatial'; .*'transformer'"),
        ({"resampling": "stride"}, "backbone.resampling is 'stride'"),
    ],
)
def test_impossible_fields_are_refused_in_one_sentence(fields, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(UNet(**(TINY | fields)), X, T)


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        (TOKENS, "attention='plain' cannot read them"),
        (Conditioning(concat=jnp.zeros((2, 8, 8, 1))), r"shape \(2, 8, 8, 1\)"),
        (Conditioning(vector=jnp.zeros((2, 5))), "5 wide but .* = 64"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(cond, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(UNet(**TINY), X, T, cond)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_returns_float32_of_the_latents_shape(name):
    backbone = BACKBONES[name](**TINY)
    out, _ = jax.eval_shape(
        lambda: backbone.init_with_output(jax.random.key(0), X, jnp.array([0, 999]))
    )
    assert out.shape == X.shape and out.dtype == jnp.float32
