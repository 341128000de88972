"""Every published model: its config builds it to the parameter, and to the key.

The manifests hold names and shapes of the published files. Stable Diffusion 2 and the
nine-channel model have none: theirs follow from Stable Diffusion 1's by what is known of
the difference.
"""

import importlib
import math
import re

import numpy as np
import pytest

from ldm_jax import trees
from ldm_jax.interop.compvis_text import split_in_proj
from ldm_jax.interop.matching import match
from ldm_jax.lazy_array import LazyArray
from tests.published_models import CONFIGS, MANIFESTS, description_of, manifest

# The only weights, beside the networks of the training loss, that nothing of ours takes.
UNUSED_WEIGHTS = re.compile(r"cond_stage_model\..*to_logits\..*")


def sizes_of(description) -> dict[str, int]:
    groups = {**description.params, "autoencoder": description.autoencoder}
    return {name: trees.num_elements(tree) for name, tree in groups.items()}


def infos_of(keys):
    return {name: (np.dtype(np.float32), shape) for name, shape in keys.items()}


def assert_one_to_one(keys, description):
    """Every key is one parameter or known, every parameter one key, shapes agree."""
    found = match(infos_of(keys), description.parts, description.known)
    assert found.is_exact, found.difference()
    assert found.targets.keys() | found.known.keys() == keys.keys()
    ours = {(t.item, t.group, t.name) for t in found.targets.values()}
    assert len(ours) == len(found.targets)
    for name, target in found.targets.items():
        assert target.torch_shape == keys[name], name
    everything = {
        ("frozen" if group == "autoencoder" else "params", group, name)
        for group, tree in {
            **description.params,
            "autoencoder": description.autoencoder,
        }.items()
        for name in trees.flatten(tree)
    }
    if description.ldm is None:
        everything = {("params", group, name) for _, group, name in everything}
    assert everything <= ours
    assert {item for item, _, _ in ours - everything} <= {"ema", "collections"}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_checkpoint_is_its_config(name):
    keys, published = manifest(name)
    description = description_of(CONFIGS[name])
    sizes = sizes_of(description)
    if name.startswith("first_stage"):
        assert sizes["autoencoder"] == published["autoencoder_total"]
        assert sizes["discriminator"] == published["loss.discriminator"]
    else:
        unused = [keys[key] for key in keys if UNUSED_WEIGHTS.fullmatch(key)]
        assert sizes["backbone"] == published["unet"]
        assert sizes["autoencoder"] == published["first_stage"]
        conditioner = published["cond_stage"] - sum(map(math.prod, unused))
        assert sizes.get("conditioner", 0) == conditioner
    assert_one_to_one(keys, description)


@pytest.mark.parametrize("name", [*CONFIGS.values(), "sd_v1_inpaint", "sd_v2"])
def test_a_config_has_the_parameters_it_claims(name):
    doc = importlib.import_module(f"configs.{name.partition(':')[0]}").__doc__
    claimed = [
        int(number.replace(",", "")) for number in re.findall(r"\d[\d,]+\d", doc)
    ]
    for group, size in sizes_of(description_of(name)).items():
        if group != "discriminator":
            assert size in claimed, f"{group}: {size:,}"


def test_every_manifest_has_a_config():
    assert {path.name.removesuffix(".json.gz") for path in MANIFESTS.iterdir()} == set(
        CONFIGS
    )


def test_the_nine_channel_model_is_its_config():
    keys, published = manifest("sd_v1")
    keys["model.diffusion_model.input_blocks.0.0.weight"] = (320, 9, 3, 3)
    description = description_of("sd_v1_inpaint")
    sizes = sizes_of(description)
    assert sizes["backbone"] == published["unet"] + 5 * 9 * 320 == 859_535_364
    assert_one_to_one(keys, description)


def test_stable_diffusion_2_is_its_config():
    keys = stable_diffusion_2_keys()
    lazy = {
        name: LazyArray(shape, np.dtype(np.float32), _unreadable)
        for name, shape in keys.items()
    }
    keys = {name: array.shape for name, array in split_in_proj(lazy).items()}
    description = description_of("sd_v2")
    sizes = sizes_of(description)
    assert sizes["backbone"] == 865_910_724
    assert sizes["autoencoder"] == 83_653_863
    # OpenCLIP counts 354,032,641 with its projection and temperature.
    assert sizes["conditioner"] == 354_032_641 - 1024 * 1024 - 1
    assert_one_to_one(keys, description)


def test_a_key_too_many_or_too_few_is_seen():
    keys, _ = manifest("ldm_ffhq256")
    description = description_of("ffhq_f4")
    for change in ({"model.diffusion_model.extra.weight": (3,)}, None):
        changed = dict(keys)
        if change is None:
            del changed["model.diffusion_model.out.2.bias"]
        else:
            changed |= change
        found = match(infos_of(changed), description.parts, description.known)
        assert not found.is_exact


def stable_diffusion_2_keys() -> dict[str, tuple[int, ...]]:
    """Linear layers around the transformers, contexts of 1024, OpenCLIP's text half."""
    keys = {}
    for name, shape in manifest("sd_v1")[0].items():
        if name.startswith("cond_stage_model."):
            continue
        if (
            re.search(r"blocks?\..*\.proj_(in|out)\.weight", name)
            and ".ff." not in name
        ):
            shape = shape[:2]
        if re.search(r"attn2\.to_[kv]\.weight", name):
            shape = (shape[0], 1024)
        keys[name] = shape
    width, inner = (1024,), (4096,)
    block = {
        "ln_1": (width, width),
        "ln_2": (width, width),
        "attn.out_proj": ((1024, 1024), width),
        "mlp.c_fc": ((4096, 1024), inner),
        "mlp.c_proj": ((1024, 4096), width),
    }
    text = {"ln_final.weight": width, "ln_final.bias": width}
    for i in range(24):
        layer = f"transformer.resblocks.{i}"
        for name, (weight, bias) in block.items():
            text[f"{layer}.{name}.weight"] = weight
            text[f"{layer}.{name}.bias"] = bias
        text[f"{layer}.attn.in_proj_weight"] = (3072, 1024)
        text[f"{layer}.attn.in_proj_bias"] = (3072,)
    text |= {
        "token_embedding.weight": (49_408, 1024),
        "positional_embedding": (77, 1024),
        "text_projection": (1024, 1024),
        "logit_scale": (),
        "attn_mask": (77, 77),
    }
    return keys | {f"cond_stage_model.model.{k}": v for k, v in text.items()}


def _unreadable():
    raise AssertionError("nothing may be read")
