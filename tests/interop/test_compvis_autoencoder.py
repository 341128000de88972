"""Every published first stage: parameter count, names and shapes, one to one."""

import gzip
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ldm_jax import trees
from ldm_jax.autoencoders import AUTOENCODERS
from ldm_jax.interop.compvis_autoencoder import AUTOENCODER_RULES
from ldm_jax.interop.rename import our_name

KEYS = Path(__file__).parents[1] / "golden" / "keys"

NUM_PARAMS = {
    "kl-f4": 55_312_063,
    "kl-f8": 83_653_863,
    "kl-f16": 69_610_963,
    "kl-f32": 103_880_131,
    "vq-f4": 55_322_782,
    "vq-f4-noattn": 53_219_486,
    "vq-f8": 67_717_295,
    "vq-f8-n256": 67_652_783,
    "vq-f16": 69_593_371,
}


def published(name):
    """(our module, the names and shapes of the published checkpoint)."""
    with gzip.open(KEYS / f"first_stage_{name}.json.gz") as file:
        manifest = json.load(file)
    theirs = manifest["ddconfig"]
    same = ("ch", "ch_mult", "num_res_blocks", "attn_resolutions", "resolution")
    config = {key: theirs[key] for key in (*same, "z_channels", "dropout")}
    config["embed_dim"] = manifest["embed_dim"]
    config["mid_attention"] = theirs.get("attn_type") != "none"
    if manifest["n_embed"]:
        config["num_embeddings"] = manifest["n_embed"]
    return AUTOENCODERS[name[:2]](**config), manifest["keys"]


def shapes_of(module):
    key = jax.random.key(0)
    image = jnp.zeros((1, 64, 64, 3))
    return trees.flatten(jax.eval_shape(module.init, key, image, key)["params"])


@pytest.mark.parametrize("name", NUM_PARAMS)
def test_published_first_stage_maps_one_to_one(name):
    module, keys = published(name)
    ours = shapes_of(module)
    assert trees.num_elements(ours) == NUM_PARAMS[name]
    mapped = {torch: our_name(torch, AUTOENCODER_RULES, ours) for torch in keys}
    assert sorted(mapped.values()) == sorted(ours)
    for torch, shape in keys.items():
        expected = ours[mapped[torch]].shape
        if len(shape) == 4:
            out_channels, in_channels, *window = shape
            shape = [*window, in_channels, out_channels]
        # 1x1 convolutions are dense layers here.
        assert [n for n in shape if n > 1] == [n for n in expected if n > 1], torch
        assert math.prod(shape) == math.prod(expected)


def test_loss_entries_match_no_rule():
    template = shapes_of(published("kl-f4")[0])
    for name in ("loss.logvar", "loss.discriminator.main.0.weight"):
        assert our_name(name, AUTOENCODER_RULES, template) is None
