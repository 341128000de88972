"""Rename rules read both ways, names and bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import trees
from ldm_jax.adversarial.patchgan import PatchDiscriminator
from ldm_jax.autoencoders import AUTOENCODERS
from ldm_jax.backbones import UNet
from ldm_jax.interop.compvis_autoencoder import AUTOENCODER_RULES
from ldm_jax.interop.compvis_class_label import CLASS_LABEL_RULES, CLASS_VECTOR_RULES
from ldm_jax.interop.compvis_discriminator import DISCRIMINATOR_RULES
from ldm_jax.interop.compvis_unet import unet_rules
from ldm_jax.interop.rename import (
    export_state_dict,
    import_lazily,
    import_state_dict,
    our_name,
    torch_name,
    torch_shape,
)
from ldm_jax.nn.conditioning import Conditioning

WIDTH = 32


def random_like(tree):
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: generator.standard_normal(x.shape, dtype=np.float32), tree
    )


def unet_case(**fields):
    unet = UNet(
        4, WIDTH, (1, 2), num_res_blocks=1, attention_resolutions=(2,), **fields
    )
    tokens = jnp.zeros((1, 2, 8)) if fields["attention"] == "transformer" else None

    def init():
        x, cond = jnp.zeros((1, 4, 4, 4)), Conditioning(tokens=tokens)
        return unet.init(jax.random.key(0), x, jnp.zeros(1), cond)["params"]

    return unet_rules(unet), jax.eval_shape(init)


def autoencoder_case(kind, **fields):
    module = AUTOENCODERS[kind](
        z_channels=3, embed_dim=3, ch=WIDTH, ch_mult=(1, 2), **fields
    )
    key, image = jax.random.key(0), jnp.zeros((1, 8, 8, 3))
    return AUTOENCODER_RULES, jax.eval_shape(module.init, key, image, key)["params"]


def discriminator_case(collection):
    def init():
        image = jnp.zeros((1, 64, 64, 3))
        return PatchDiscriminator().init(jax.random.key(0), image, train=False)

    return DISCRIMINATOR_RULES, jax.eval_shape(init)[collection]


TABLE = {"embedding": {"embedding": jax.ShapeDtypeStruct((5, 8), jnp.float32)}}
CASES = {
    "unet, plain attention": lambda: unet_case(attention="plain", num_heads=2),
    "unet, transformer": lambda: unet_case(attention="transformer", num_heads=2),
    "unet, two blocks": lambda: unet_case(
        attention="transformer", num_heads=2, transformer_depth=2
    ),
    "unet, linear": lambda: unet_case(
        attention="transformer", num_heads=2, transformer_projection="linear"
    ),
    "unet, resblock resampling": lambda: unet_case(
        attention="plain", num_heads=2, resampling="resblock", time_conditioning="film"
    ),
    "kl": lambda: autoencoder_case("kl", attn_resolutions=(128,)),
    "vq": lambda: autoencoder_case("vq", num_embeddings=16, mid_attention=False),
    "class table": lambda: (CLASS_LABEL_RULES, TABLE),
    "class table of the denoiser": lambda: (CLASS_VECTOR_RULES, TABLE),
    "discriminator": lambda: discriminator_case("params"),
    "batch statistics": lambda: discriminator_case("batch_stats"),
}


@pytest.mark.parametrize("case", CASES)
def test_export_then_import_returns_every_bit(case):
    rules, template = CASES[case]()
    params = random_like(template)
    state = export_state_dict(params, rules)
    assert len(state) == len(trees.flatten(template))
    again, unused, missing = import_state_dict(state, rules, template)
    assert not unused and not missing
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize("case", CASES)
def test_names_and_shapes_can_be_told_without_arrays(case):
    rules, template = CASES[case]()
    state = export_state_dict(random_like(template), rules)
    flat = trees.flatten(template)
    told = {}
    for name, leaf in flat.items():
        target, rank = torch_name(name, rules)
        told[target] = torch_shape(name, leaf.shape, rank)
        assert our_name(target, rules, flat) == name
    assert told == {name: value.shape for name, value in state.items()}


def test_ranks_of_published_files_come_back():
    rules, template = CASES["unet, plain attention"]()
    state = export_state_dict(random_like(template), rules)
    assert state["input_blocks.3.1.qkv.weight"].shape == (6 * WIDTH, 2 * WIDTH, 1)
    rules, template = CASES["unet, transformer"]()
    state = export_state_dict(random_like(template), rules)
    assert state["middle_block.1.proj_in.weight"].shape == (2 * WIDTH, 2 * WIDTH, 1, 1)
    rules, template = CASES["unet, linear"]()
    state = export_state_dict(random_like(template), rules)
    assert state["middle_block.1.proj_in.weight"].shape == (2 * WIDTH, 2 * WIDTH)
    rules, template = CASES["kl"]()
    state = export_state_dict(random_like(template), rules)
    assert state["encoder.mid.attn_1.q.weight"].shape == (2 * WIDTH, 2 * WIDTH, 1, 1)
    assert state["quant_conv.weight"].shape == (6, 6, 1, 1)


def test_a_rank_turns_a_convolution_into_a_linear_weight():
    kernel = np.arange(6.0).reshape(1, 1, 2, 3)
    state = export_state_dict({"a": {"kernel": kernel}}, ((r"x\.y", "a", 2),))
    np.testing.assert_array_equal(state["x.y.weight"], kernel[0, 0].T)


def test_bare_parameters_match_by_their_whole_name():
    rules = ((r"positional_embedding", "position/embedding"),)
    tree = {"position": {"embedding": np.ones((3, 2))}}
    state = export_state_dict(tree, rules)
    assert list(state) == ["positional_embedding"]
    again, unused, missing = import_state_dict(state, rules, tree)
    assert not unused and not missing
    np.testing.assert_array_equal(again["position"]["embedding"], np.ones((3, 2)))


def test_the_first_rule_that_matches_wins_also_before_a_literal_one():
    rules = ((r"a\.(\d+)", "numbered_{0}"), (r"a\.1", "literal"))
    assert our_name("a.1.bias", rules, {}) == "numbered_1/bias"
    rules = tuple(reversed(rules))
    assert our_name("a.1.bias", rules, {}) == "literal/bias"
    assert our_name("a.2.bias", rules, {}) == "numbered_2/bias"


def test_numbers_may_change_places():
    rules = ((r"a\.(\d+)\.b\.(\d+)", "b_{1}/a_{0}"),)
    assert our_name("a.3.b.14.bias", rules, {}) == "b_14/a_3/bias"
    assert torch_name("b_14/a_3/kernel", rules) == ("a.3.b.14.weight", None)


@pytest.mark.parametrize(
    "rule", [(r"a\.(\w+)", "{0}"), (r"(a|b)", "{0}"), (r"a\.(\d+)", "a"), ("a", "{0}")]
)
def test_a_rule_that_cannot_be_read_backwards_is_refused(rule):
    with pytest.raises(ValueError, match="cannot be read backwards"):
        our_name("a.b.weight", (rule,), {})


def test_a_parameter_without_a_rule_cannot_be_exported():
    with pytest.raises(
        ValueError, match="no rename rule leads to the parameter b/bias"
    ):
        export_state_dict({"b": {"bias": np.zeros(1)}}, ((r"a", "a"),))


class CountingState(dict):
    """Counts how often each tensor is read."""

    def __init__(self, *args):
        super().__init__(*args)
        self.reads = []

    def __getitem__(self, name):
        self.reads.append(name)
        return super().__getitem__(name)


def test_each_tensor_is_read_once_and_only_when_it_is_used():
    rules, template = CASES["class table"]()
    state = CountingState({"embedding.weight": np.ones((5, 8)), "other": np.ones(9)})
    tree, unused, missing = import_lazily(state, rules, template)
    assert state.reads == [] and unused == ["other"] and not missing
    assert tree["embedding"]["embedding"].read().shape == (5, 8)
    assert state.reads == ["embedding.weight"]


def test_a_tensor_of_another_shape_names_the_parameter():
    rules, template = CASES["class table"]()
    with pytest.raises(ValueError, match=r"embedding/embedding has shape \(5, 8\)"):
        import_state_dict({"embedding.weight": np.ones((4, 8))}, rules, template)
