"""The U-Net against stored numbers of the reference and against a torch re-derivation."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.backbones import UNet
from ldm_jax.interop.compvis_class_label import CLASS_LABEL_RULES
from ldm_jax.interop.compvis_unet import unet_rules
from ldm_jax.interop.rename import import_state_dict
from ldm_jax.nn.conditioning import Conditioning

GOLDEN = Path(__file__).parents[1] / "golden"

SMALL = {"model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1}


def nhwc(x):
    return jnp.asarray(np.asarray(x).transpose(0, 2, 3, 1))


def imported(unet, state_dict, *inputs):
    """Parameters of `unet` from a torch state dict, every tensor used."""
    template = jax.eval_shape(lambda: unet.init(jax.random.key(0), *inputs))["params"]
    params, unused, missing = import_state_dict(state_dict, unet_rules(unet), template)
    assert not unused and not missing
    return params


def assert_close(ours, theirs, tolerance=1e-5):
    """Within `tolerance` of the largest value."""
    error = np.abs(np.asarray(ours) - np.asarray(theirs)).max()
    assert error <= tolerance * np.abs(theirs).max(), error / np.abs(theirs).max()


@pytest.mark.parametrize(
    ("name", "unet"),
    [
        (
            "unet_attn_plain",
            UNet(3, **SMALL, attention_resolutions=(2,), num_head_channels=16),
        ),
        (
            "unet_crossattn",
            UNet(
                4,
                **SMALL,
                attention_resolutions=(1, 2),
                attention="transformer",
                num_heads=4,
                transformer_depth=2,
            ),
        ),
    ],
)
def test_output_equals_the_stored_output_of_the_reference(name, unet):
    stored = np.load(GOLDEN / f"{name}.npz")
    weights = {k[3:]: stored[k] for k in stored.files if k.startswith("sd/")}
    context = jnp.asarray(stored["in/context"]) if "in/context" in stored else None
    inputs = nhwc(stored["in/x"]), jnp.asarray(stored["in/t"]), Conditioning(context)
    params = imported(unet, weights, *inputs)
    assert_close(
        jax.jit(unet.apply)({"params": params}, *inputs), nhwc(stored["out/y"])
    )


VARIANTS = {
    "split_first_order": {
        "attention_order": "split_first",
        "channel_mult": (1,),
        "attention_resolutions": (1,),
        "num_head_channels": 8,
    },
    "pool_without_attention_levels": {"resampling": "pool", "num_heads": 4},
    "linear_projection": {
        "attention": "transformer",
        "transformer_projection": "linear",
        "channel_mult": (1,),
        "num_head_channels": 16,
    },
    "three_levels_two_blocks": {
        "channel_mult": (1, 2, 3),
        "num_res_blocks": 2,
        "attention_resolutions": (2, 4),
        "num_heads": 4,
    },
}


def torch_pair(fields, *, in_channels, context_dim=None, num_classes=None):
    torch = pytest.importorskip("torch")
    from torch_unet import TorchUNet

    torch.manual_seed(0)
    unet = UNet(3, **(SMALL | fields))
    reference = TorchUNet(
        in_channels=in_channels,
        context_dim=context_dim,
        num_classes=num_classes,
        unet=unet,
    )
    return unet, reference.eval(), torch


def random(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_variant_equals_the_torch_re_derivation(variant):
    context_dim = 12 if "transformer" in VARIANTS[variant].values() else None
    unet, reference, torch = torch_pair(
        VARIANTS[variant], in_channels=5, context_dim=context_dim
    )
    x, concat = random((2, 3, 8, 12), 0), random((2, 2, 8, 12), 1)
    t = np.array([3.0, 751.25], np.float32)
    context = None if context_dim is None else random((2, 5, context_dim), 2)
    with torch.no_grad():
        theirs = reference(
            torch.cat([torch.tensor(x), torch.tensor(concat)], dim=1),
            torch.tensor(t),
            None if context is None else torch.tensor(context),
        ).numpy()
    cond = Conditioning(
        tokens=None if context is None else jnp.asarray(context), concat=nhwc(concat)
    )
    inputs = nhwc(x), jnp.asarray(t), cond
    weights = {k: v.numpy() for k, v in reference.state_dict().items()}
    params = imported(unet, weights, *inputs)
    assert_close(jax.jit(unet.apply)({"params": params}, *inputs), nhwc(theirs))


@pytest.mark.parametrize("attention", ["plain", "transformer"])
def test_small_activations_show_that_every_norm_has_the_right_epsilon(attention):
    fields = {"attention": attention, "channel_mult": (1,), "num_heads": 2}
    unet, reference, torch = torch_pair(fields, in_channels=3, context_dim=6)
    with torch.no_grad():
        # What feeds a norm shrinks until its variance is the size of the epsilons.
        feeds_norm = re.compile(
            r"input_blocks\.0|in_layers\.2|emb_layers|out_layers\.3|proj_in"
        )
        for name, parameter in reference.named_parameters():
            if feeds_norm.search(name):
                parameter.mul_(0.01)
        x, t, context = random((2, 3, 4, 4), 0), np.array([7, 70]), random((2, 5, 6), 1)
        theirs = reference(
            torch.tensor(x), torch.tensor(t), torch.tensor(context)
        ).numpy()
    cond = Conditioning(None if attention == "plain" else jnp.asarray(context))
    inputs = nhwc(x), jnp.asarray(t), cond
    weights = {k: v.numpy() for k, v in reference.state_dict().items()}
    params = imported(unet, weights, *inputs)
    assert_close(jax.jit(unet.apply)({"params": params}, *inputs), nhwc(theirs))


def test_class_vector_and_missing_context_equal_the_torch_re_derivation():
    fields = {
        "attention": "transformer",
        "channel_mult": (1,),
        "num_heads": 2,
    }
    unet, reference, torch = torch_pair(fields, in_channels=3, num_classes=7)
    x, t, label = random((2, 3, 4, 4), 0), np.array([0, 999]), np.array([6, 2])
    with torch.no_grad():
        theirs = reference(
            torch.tensor(x), torch.tensor(t), y=torch.tensor(label)
        ).numpy()
    weights = {k: v.numpy() for k, v in reference.state_dict().items()}
    table = {"label_emb.weight": weights.pop("label_emb.weight")}
    template = {"embedding": {"embedding": jnp.zeros((7, unet.embedding_dim))}}
    embedding, _, _ = import_state_dict(table, CLASS_LABEL_RULES, template)
    cond = Conditioning(vector=jnp.asarray(embedding["embedding"]["embedding"][label]))
    inputs = nhwc(x), jnp.asarray(t), cond
    params = imported(unet, weights, *inputs)
    assert_close(jax.jit(unet.apply)({"params": params}, *inputs), nhwc(theirs))


def test_output_and_gradient_with_film_and_resblock_equal_the_torch_re_derivation():
    fields = {
        "time_conditioning": "film",
        "resampling": "resblock",
        "attention_resolutions": (2,),
        "num_heads": 2,
    }
    unet, reference, torch = torch_pair(fields, in_channels=3)
    x, t = random((2, 3, 8, 8), 0), np.array([10.0, 500.0], np.float32)
    torch_x = torch.tensor(x, requires_grad=True)
    torch_y = reference(torch_x, torch.tensor(t))
    torch_y.square().mean().backward()
    weights = {k: v.detach().numpy() for k, v in reference.state_dict().items()}
    gradients = {k: v.grad.numpy() for k, v in reference.named_parameters()}
    inputs = nhwc(x), jnp.asarray(t)
    params = imported(unet, weights, *inputs)

    def loss(params, x):
        y = unet.apply({"params": params}, x, inputs[1])
        return jnp.mean(y**2), y

    grad = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (ours, ours_x), y = grad(params, inputs[0])
    assert_close(y, nhwc(torch_y.detach()))
    assert_close(ours_x, nhwc(torch_x.grad), 2e-5)
    theirs = imported(unet, gradients, *inputs)
    largest = max(np.abs(g).max() for g in gradients.values())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * largest),
        ours,
        theirs,
    )
