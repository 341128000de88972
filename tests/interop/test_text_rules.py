"""Names of the published text encoders: every key to one parameter, and back."""

import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import trees
from ldm_jax.conditioners import ClipText, TokenTransformer
from ldm_jax.interop.compvis_text import (
    HF_CLIP_RULES,
    OPEN_CLIP_RULES,
    clip_text_rules,
    join_in_proj,
    split_in_proj,
    token_transformer_rules,
)
from ldm_jax.interop.diffusers_text import (
    CLIP_TEXT_RULES,
    LDM_BERT_RULES,
    with_text_model_prefix,
)
from ldm_jax.interop.rename import (
    export_state_dict,
    import_state_dict,
    our_name,
    torch_name,
    torch_shape,
)
from ldm_jax.lazy_array import LazyArray

KEYS = Path(__file__).parents[1] / "golden" / "keys"
SKIPPED = {
    "transformer.to_logits.weight",
    "transformer.to_logits.bias",
    "transformer.text_model.embeddings.position_ids",
    "model.text_projection",
    "model.logit_scale",
    "model.attn_mask",
}

TINY_CLIP = ClipText(width=8, num_layers=2, num_heads=2, vocab_size=20, max_length=5)
TINY_OPEN_CLIP = TINY_CLIP.clone(activation="gelu", output="penultimate")
TINY_BERT = TokenTransformer(8, 2, num_heads=2, head_dim=3, vocab_size=20, max_length=5)
RULE_SETS = {
    "token transformer": (TINY_BERT, token_transformer_rules(2)),
    "CLIP in CompVis": (TINY_CLIP, HF_CLIP_RULES),
    "OpenCLIP": (TINY_OPEN_CLIP, OPEN_CLIP_RULES),
    "CLIP in diffusers": (TINY_CLIP, CLIP_TEXT_RULES),
    "pooled CLIP": (TINY_CLIP.clone(output="pooled"), CLIP_TEXT_RULES),
    "LDMBert": (TINY_BERT, LDM_BERT_RULES),
}


def shapes_of(conditioner):
    tokens = jax.ShapeDtypeStruct((1, conditioner.max_length), jnp.int32)
    variables = jax.eval_shape(conditioner.init, jax.random.key(0), {"tokens": tokens})
    return trees.flatten(variables["params"])


def random_params(conditioner):
    random = np.random.default_rng(0)
    flat = {
        name: random.standard_normal(leaf.shape).astype(np.float32)
        for name, leaf in shapes_of(conditioner).items()
    }
    return trees.unflatten(flat)


def published(name):
    manifest = json.loads(gzip.decompress((KEYS / f"{name}.json.gz").read_bytes()))
    return {key: tuple(shape) for key, shape in manifest["keys"].items()}


def open_clip(width=1024, layers=24, vocab_size=49_408, length=77):
    """Names and shapes of OpenCLIP's text half, as Stable Diffusion 2's files have them."""
    shapes = {
        "positional_embedding": (length, width),
        "text_projection": (width, width),
        "logit_scale": (),
        "attn_mask": (length, length),
        "token_embedding.weight": (vocab_size, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    for i in range(layers):
        block = f"transformer.resblocks.{i}"
        shapes |= {
            f"{block}.ln_1.weight": (width,),
            f"{block}.ln_1.bias": (width,),
            f"{block}.attn.in_proj_weight": (3 * width, width),
            f"{block}.attn.in_proj_bias": (3 * width,),
            f"{block}.attn.out_proj.weight": (width, width),
            f"{block}.attn.out_proj.bias": (width,),
            f"{block}.ln_2.weight": (width,),
            f"{block}.ln_2.bias": (width,),
            f"{block}.mlp.c_fc.weight": (4 * width, width),
            f"{block}.mlp.c_fc.bias": (4 * width,),
            f"{block}.mlp.c_proj.weight": (width, 4 * width),
            f"{block}.mlp.c_proj.bias": (width,),
        }
    return {f"model.{name}": shape for name, shape in shapes.items()}


def unreadable(shapes):
    def read():
        raise AssertionError("nothing may be read")

    dtype = np.dtype(np.float16)
    return {name: LazyArray(shape, dtype, read) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("shapes", "conditioner", "rules"),
    [
        (
            published("conditioner_txt2img-1p4B-eval"),
            TokenTransformer(1280, 32),
            token_transformer_rules(32),
        ),
        (
            published("conditioner_text2img256"),
            TokenTransformer(640, 32),
            token_transformer_rules(32),
        ),
        (
            published("conditioner_layout2img-openimages256"),
            TokenTransformer(512, 16, vocab_size=8192, max_length=92),
            token_transformer_rules(16),
        ),
        (
            published("conditioner_sd_v1"),
            ClipText(width=768, num_layers=12, num_heads=12),
            HF_CLIP_RULES,
        ),
        (
            open_clip(),
            ClipText(
                width=1024,
                num_layers=24,
                num_heads=16,
                activation="gelu",
                output="penultimate",
            ),
            OPEN_CLIP_RULES,
        ),
    ],
    ids=["txt2img-1p4B", "text2img256", "layout2img", "sd_v1", "sd_v2"],
)
def test_published_encoder_maps_one_to_one_onto_ours(shapes, conditioner, rules):
    ours = shapes_of(conditioner)
    theirs = split_in_proj(unreadable(shapes))
    mapped = {}
    for name, tensor in theirs.items():
        target = our_name(name, rules, ours)
        if target not in ours:
            assert name in SKIPPED, f"{name} has no counterpart"
            continue
        assert target not in mapped, f"{name} and {mapped[target]} are both {target}"
        assert torch_shape(target, ours[target].shape) == tensor.shape, name
        mapped[target] = name
    assert set(mapped) == set(ours)
    back = {name: torch_name(name, rules)[0] for name in ours}
    assert back == mapped
    whole = join_in_proj({name: theirs[name] for name in back.values()})
    assert {n: t.shape for n, t in whole.items()} == {
        n: s for n, s in shapes.items() if n not in SKIPPED
    }


@pytest.mark.parametrize("name", sorted(RULE_SETS))
def test_export_and_import_keep_every_bit(name):
    conditioner, rules = RULE_SETS[name]
    params = random_params(conditioner)
    state = join_in_proj(export_state_dict(params, rules))
    tree, unused, missing = import_state_dict(
        split_in_proj(state), rules, shapes_of(conditioner)
    )
    assert not unused and not missing
    jax.tree.map(np.testing.assert_array_equal, tree, params)
    assert jax.tree.structure(tree) == jax.tree.structure(params)


def test_openclip_fuses_query_key_and_value_in_this_order():
    params = random_params(TINY_OPEN_CLIP)
    state = join_in_proj(export_state_dict(params, OPEN_CLIP_RULES))
    assert {n: a.shape for n, a in state.items()} == {
        n: s for n, s in open_clip(8, 2, 20, 5).items() if n not in SKIPPED
    }
    attention = params["encoder"]["block_1"]["self_attention"]
    fused = np.asarray(state["model.transformer.resblocks.1.attn.in_proj_weight"])
    for i, part in enumerate(("query", "key", "value")):
        rows = fused[8 * i : 8 * (i + 1)]
        np.testing.assert_array_equal(rows, attention[part]["kernel"].T)
    positions = state["model.positional_embedding"]
    table = params["encoder"]["position_embedding"]["embedding"]
    np.testing.assert_array_equal(positions, table)


def test_fused_projections_split_under_any_prefix_and_other_names_stay():
    state = {
        "cond_stage_model.a.in_proj_weight": np.arange(12.0).reshape(6, 2),
        "in_proj_weight": np.zeros(3),
        "a.in_proj_other": np.zeros(3),
        "b.weight": np.zeros(4),
    }
    split = split_in_proj(state)
    assert list(split)[:3] == ["in_proj_weight", "a.in_proj_other", "b.weight"]
    key = split["cond_stage_model.a.in_proj.key.weight"]
    np.testing.assert_array_equal(key, [[4, 5], [6, 7]])
    joined = join_in_proj(split)
    assert set(joined) == set(state)
    for name, value in state.items():
        np.testing.assert_array_equal(joined[name], value)


def test_what_is_not_three_projections_stays_or_is_named():
    odd = {"b.in_proj_bias": np.zeros(4), "c.in_proj_weight": np.zeros(())}
    assert split_in_proj(odd) == odd
    with pytest.raises(ValueError, match="b.in_proj.value.bias is missing"):
        join_in_proj(
            {"b.in_proj.query.bias": np.zeros(2), "b.in_proj.key.bias": np.zeros(2)}
        )


def test_names_of_transformers_five_get_the_old_prefix():
    params = random_params(TINY_CLIP)
    old = export_state_dict(params, CLIP_TEXT_RULES)
    new = {name.removeprefix("text_model."): value for name, value in old.items()}
    assert set(new) & set(old) == set()
    assert list(with_text_model_prefix(new)) == list(old)
    assert list(with_text_model_prefix(old)) == list(old)


def test_the_activation_tells_openclip_from_clip():
    assert clip_text_rules(TINY_OPEN_CLIP) is OPEN_CLIP_RULES
    assert clip_text_rules(TINY_CLIP) is HF_CLIP_RULES
