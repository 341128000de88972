"""Whole diffusers folders in and out."""

import json
import shutil

import jax
import numpy as np
import pytest

from ldm_jax import trees
from ldm_jax.data.tokenizers import load_tokenizer
from ldm_jax.interop.diffusers import read_folder, write_folder
from ldm_jax.interop.diffusers_autoencoder import scaling_factor
from ldm_jax.lazy_array import read_array

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from tests.parity import torch_diffusers as theirs

STAGE_NAMES = ("vae", "vqvae")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Folders of the vendored tokenizers as transformers loads them."""
    folder = tmp_path_factory.mktemp("tokenizers")
    found = {"clip": load_tokenizer("clip"), "bert": load_tokenizer("bert")}
    for name, tokenizer in found.items():
        tokenizer.save(folder / name)
    return {name: (folder / name, tokenizer) for name, tokenizer in found.items()}


PIPELINES = {
    "ldm": (theirs.ldm_pipeline, None),
    "super_resolution": (theirs.super_resolution_pipeline, None),
    "ldm_text": (theirs.text_pipeline, "bert"),
    "stable_diffusion_1": (theirs.stable_diffusion, "clip"),
    "stable_diffusion_2": (
        lambda folder: theirs.stable_diffusion(
            folder,
            act="gelu",
            attention_head_dim=[4, 8],
            use_linear_projection=True,
        ),
        "clip",
    ),
    "stable_diffusion_inpainting": (
        lambda folder: theirs.stable_diffusion(folder, inpaint=True),
        "clip",
    ),
}


def weights(pipeline):
    """All tensors of a pipeline by component and name."""
    return {
        f"{part}/{name}": value.numpy()
        for part, module in pipeline.components.items()
        if isinstance(module, torch.nn.Module)
        for name, value in module.state_dict().items()
    }


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_goes_in_and_out_unchanged(name, tokenizers, tmp_path):
    make, text = PIPELINES[name]
    folder, tokenizer = tokenizers.get(text, (None, None))
    pipeline = make() if text is None else make(folder)
    pipeline.save_pretrained(tmp_path / "theirs")

    imported = read_folder(tmp_path / "theirs")
    write_folder(tmp_path / "ours", imported.sections, imported.trees, tokenizer)

    again = type(pipeline).from_pretrained(tmp_path / "ours", safety_checker=None)
    before, after = weights(pipeline), weights(again)
    assert before.keys() == after.keys()
    for key, value in before.items():
        if "to_logits" not in key:  # nothing calls it, so it is not kept
            np.testing.assert_array_equal(after[key], value, err_msg=key)
    scheduler = dict(pipeline.scheduler.config)
    for field in ("beta_start", "beta_end", "beta_schedule", "prediction_type"):
        assert again.scheduler.config[field] == scheduler[field]
    for field in ("steps_offset", "set_alpha_to_one", "clip_sample"):
        assert again.scheduler.config[field] == scheduler[field]
    assert read_folder(tmp_path / "ours").sections == imported.sections
    for part, module in pipeline.components.items():
        if part in ("unet", *STAGE_NAMES):
            assert plain_config(again.components[part]) == plain_config(module)


def plain_config(module):
    """A network's config without what its forward pass does not depend on."""
    ignored = ("attn_norm_num_groups", "force_upcast", "vq_embed_dim")
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in module.config.items()
        if not name.startswith("_") and name not in ignored
    }


def small_first_stage():
    return theirs.first_stage("AutoencoderKL", (32, 64))


def read_arrays(folder):
    imported = read_folder(folder)
    return trees.flatten(jax.tree.map(read_array, imported.trees))


def assert_same_trees(ours, expected):
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_weights_with_the_names_and_shapes_of_old_versions_are_the_same(tmp_path):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    network = theirs.unet("UNet2DModel", (32, 64), ("", "Attn"), attention_head_dim=16)
    for model in (small_first_stage(), network):
        folders = tmp_path / type(model).__name__ / "new", tmp_path / "old"
        model.save_pretrained(folders[0])
        state = {}
        for name, value in model.state_dict().items():
            parts = [p for p in old if f".{p}." in name]
            for part in parts:
                name = name.replace(part, old[part])
                value = value[:, :, None, None] if value.ndim == 2 else value
            state[name] = value
        assert any("proj_attn" in name for name in state)
        folders[1].mkdir(exist_ok=True)
        torch.save(state, folders[1] / "diffusion_pytorch_model.bin")
        shutil.copy(folders[0] / "config.json", folders[1])
        assert_same_trees(read_arrays(folders[1]), read_arrays(folders[0]))


def test_several_files_and_half_precision_are_read(tmp_path):
    model = small_first_stage()
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "several", max_shard_size="200KB")
    assert any((tmp_path / "several").glob("*index.json"))
    expected = read_arrays(tmp_path / "one")
    assert_same_trees(read_arrays(tmp_path / "several"), expected)
    model.half().save_pretrained(tmp_path / "half", variant="fp16")
    for name, value in read_arrays(tmp_path / "half").items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-6)


def test_a_first_stage_that_does_not_say_its_scale_is_vq_1_or_kl_stable_diffusions():
    assert scaling_factor({"_class_name": "VQModel"}) == 1.0
    assert scaling_factor({"_class_name": "AutoencoderKL"}) == 0.18215
    assert scaling_factor({"_class_name": "VQModel", "scaling_factor": 0.5}) == 0.5


def test_super_resolution_does_not_scale_its_latents(tmp_path):
    pipeline = theirs.super_resolution_pipeline()
    pipeline.vqvae.register_to_config(scaling_factor=0.18215)
    pipeline.save_pretrained(tmp_path)
    sections = read_folder(tmp_path).sections
    assert sections["latent"]["scale"] == 1.0
    assert sections["conditioner"]["field"] == "low_res"


def edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizers):
    """A tiny Stable Diffusion folder."""
    folder = tmp_path_factory.mktemp("saved")
    theirs.stable_diffusion(tokenizers["clip"][0]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("file", "fields", "sentence"),
    [
        ("unet/config.json", {"freq_shift": 1}, "freq_shift=1"),
        ("unet/config.json", {"norm_eps": 1e-6}, "norm_eps"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "addition_embed"),
        ("unet/config.json", {"cross_attention_dim": 16}, "text encoder .* 32 wide"),
        ("unet/config.json", {"in_channels": 8}, "in_channels=8"),
        ("unet/config.json", {"attention_head_dim": [4, 4, 4]}, "attention_head_dim"),
        (
            "unet/config.json",
            {"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]},
            "up_block_types.*mirror",
        ),
        (
            "unet/config.json",
            {"down_block_types": ["KDownBlock2D", "DownBlock2D"]},
            "KDownBlock2D",
        ),
        ("unet/config.json", {"block_out_channels": [32, 96]}, "not of the network"),
        ("unet/config.json", {"_class_name": "UNet3DModel"}, "UNet3DModel"),
        ("vae/config.json", {"use_quant_conv": False}, "use_quant_conv=False"),
        ("vae/config.json", {"shift_factor": 0.1}, "shift_factor=0.1"),
        ("text_encoder/config.json", {"hidden_act": "relu"}, "hidden_act='relu'"),
        ("text_encoder/config.json", {"intermediate_size": 64}, "intermediate_size"),
        (
            "scheduler/scheduler_config.json",
            {"trained_betas": [0.1, 0.2]},
            "trained_betas",
        ),
        (
            "scheduler/scheduler_config.json",
            {"beta_schedule": "sigmoid"},
            "beta_schedule='sigmoid'",
        ),
        ("model_index.json", {"_class_name": "FluxPipeline"}, "FluxPipeline"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(
    saved, tmp_path, file, fields, sentence
):
    folder = tmp_path / "edited"
    shutil.copytree(saved, folder)
    edit(folder / file, **fields)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_folder(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_component_and_a_broken_json_are_named(saved, tmp_path):
    folder = tmp_path / "edited"
    shutil.copytree(saved, folder)
    (folder / "vae" / "config.json").write_text("<html>")
    with pytest.raises(ValueError, match=r"vae/config.json is not valid JSON"):
        read_folder(folder)
    shutil.rmtree(folder / "vae")
    with pytest.raises(FileNotFoundError, match=r"vae/config.json does not exist"):
        read_folder(folder)


def test_a_given_config_is_compared_by_what_it_computes(saved):
    sections = read_folder(saved).sections
    same = json.loads(json.dumps(sections))  # lists instead of tuples
    same["autoencoder"] |= {"resolution": 512, "dropout": 0.1}
    read_folder(saved, same)
    for part, fields, named in (
        ("backbone", {"num_heads": 8}, "heads"),
        ("backbone", {"num_res_blocks": 3}, "backbone.num_res_blocks is 1"),
        ("autoencoder", {"name": "vq"}, "autoencoder.name is 'kl'"),
        ("conditioner", {"num_layers": 9}, "conditioner.num_layers is 2"),
        ("diffusion", {"prediction": "v"}, "diffusion.prediction is 'eps'"),
    ):
        other = same | {part: same[part] | fields}
        with pytest.raises(ValueError, match=named) as caught:
            read_folder(saved, other)
        assert "\n" not in str(caught.value)


def test_a_text_encoder_with_an_unused_block_is_that_without_it(saved, tmp_path):
    imported = read_folder(saved)
    text = imported.sections["conditioner"]
    longer = text | {"num_layers": 3, "output": "penultimate"}
    sections = imported.sections | {"conditioner": longer}
    read_folder(saved, sections)
    tree = imported.trees["conditioner"]["encoder"]
    extra = {"conditioner": {"encoder": tree | {"block_2": tree["block_1"]}}}
    write_folder(tmp_path, sections, imported.trees | extra, load_tokenizer("clip"))
    assert read_folder(tmp_path).sections["conditioner"]["num_layers"] == 2


@pytest.mark.parametrize(
    ("part", "fields", "sentence"),
    [
        ("backbone", {"resampling": "pool"}, "resampling='pool'"),
        ("conditioner", {"name": "class_label"}, "no pipeline .* 'class_label'"),
        ("diffusion", {"schedule": {"name": "sqrt"}}, "'sqrt'"),
        ("autoencoder", {"embed_dim": 8}, "4 and 8"),
    ],
)
def test_what_diffusers_does_not_have_is_not_written(
    saved, tmp_path, part, fields, sentence
):
    imported = read_folder(saved)
    sections = imported.sections | {part: imported.sections[part] | fields}
    with pytest.raises(ValueError, match=sentence) as caught:
        write_folder(tmp_path, sections, imported.trees, load_tokenizer("clip"))
    assert "\n" not in str(caught.value)


def test_a_text_model_is_not_written_without_a_tokenizer(saved, tmp_path):
    imported = read_folder(saved)
    with pytest.raises(ValueError, match="tokenizer.name to 'clip'"):
        write_folder(tmp_path, imported.sections, imported.trees)


def test_weights_that_the_model_has_no_place_for_are_named(saved, tmp_path):
    folder = tmp_path / "edited"
    shutil.copytree(saved, folder)
    edit(folder / "unet" / "config.json", transformer_layers_per_block=2)
    with pytest.raises(ValueError, match="only in the model.*transformer_blocks.1"):
        read_folder(folder)
