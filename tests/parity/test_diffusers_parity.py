"""Imported networks compute what diffusers does, and diffusers what exported ones do."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import sd_v1
from ldm_jax import build
from ldm_jax.arrays import image_to_pixels, normal_like
from ldm_jax.data.tokenizers import load_tokenizer
from ldm_jax.guidance import Guidance
from ldm_jax.interop.diffusers import read_folder, write_folder
from ldm_jax.interop.diffusers_modules import autoencoder_of, unet_of
from ldm_jax.interop.diffusers_parts import unet_component
from ldm_jax.interop.diffusers_unet_config import unet_config
from ldm_jax.lazy_array import read_array
from ldm_jax.model import Model
from ldm_jax.nn.conditioning import Conditioning
from ldm_jax.rng import example_keys, named_keys

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from tests.parity import torch_diffusers as theirs

TOLERANCE = 1e-4  # of the largest value
SAME = 1e-5  # torch sums in another order where the weights lie elsewhere in memory

UNETS = {
    "super_resolution": lambda: theirs.unet(
        "UNet2DModel", (32, 64), ("", "Attn"), attention_head_dim=16, in_channels=6
    ),
    "film_and_residual_resampling": lambda: theirs.unet(
        "UNet2DModel",
        (32, 64),
        ("Resnet", "Attn"),
        attention_head_dim=None,
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attn_norm_num_groups=32,
    ),
    "stable_diffusion_1": lambda: theirs.unet(
        "UNet2DConditionModel",
        (32,),
        ("CrossAttn",),
        cross_attention_dim=24,
        attention_head_dim=8,
    ),
    "stable_diffusion_2_inpainting": lambda: theirs.unet(
        "UNet2DConditionModel",
        (32, 64),
        ("", "CrossAttn"),
        in_channels=9,
        cross_attention_dim=24,
        attention_head_dim=[4, 8],
        use_linear_projection=True,
        transformer_layers_per_block=2,
    ),
}
FIRST_STAGES = {
    "kl": lambda: theirs.first_stage("AutoencoderKL", (32, 64), latent_channels=4),
    "vq_with_attention_at_a_level_but_not_in_the_middle": lambda: theirs.first_stage(
        "VQModel",
        (32, 64),
        ("", "Attn"),
        latent_channels=4,
        vq_embed_dim=3,
        num_vq_embeddings=64,
        mid_block_add_attention=False,
    ),
}


def error_of(ours, wanted):
    """Largest difference relative to the largest value."""
    return np.abs(np.asarray(ours) - wanted).max() / np.abs(wanted).max()


def assert_same_weights(model, expected):
    """All tensors equal to the bit."""
    ours, wanted = model.state_dict(), expected.state_dict()
    assert ours.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(ours[name], value), name


def arrays(tree):
    """Lazy arrays, read."""
    return jax.tree.map(read_array, tree)


def check_unet(model, folder, side=16, batch=2):
    """The error of the imported U-Net; the exported one has the same weights."""
    model.save_pretrained(folder / "theirs")
    imported = read_folder(folder / "theirs")
    random = np.random.default_rng(0)
    channels, width = model.config.in_channels, None
    x = random.normal(size=(batch, side, side, channels)).astype(np.float32)
    t, tokens = np.arange(batch) * 700 + 3, None
    if "cross_attention_dim" in model.config:
        width = model.config.cross_attention_dim
        tokens = random.normal(size=(batch, 7, width)).astype(np.float32)

    def run(model):
        seen = () if tokens is None else (torch.from_numpy(tokens),)
        with torch.no_grad():
            out = model(theirs.nchw(x), torch.from_numpy(t), *seen).sample
        return theirs.nhwc(out)

    wanted = run(model)
    unet = unet_of(imported.sections["backbone"], model.config.out_channels)
    write_unet(folder / "ours", unet, imported.trees, channels, width, side)
    again = type(model).from_pretrained(folder / "ours").eval()
    assert_same_weights(again, model)
    assert error_of(run(again), wanted) < SAME
    del model, again
    params = arrays(imported.trees["backbone"])
    cond = Conditioning(None if tokens is None else jnp.asarray(tokens))
    ours = jax.jit(unet.apply)({"params": params}, x, jnp.asarray(t), cond)
    return error_of(ours, wanted)


def write_unet(folder, unet, trees, in_channels, tokens_dim, sample_size):
    unet_component("", unet, in_channels, tokens_dim).write(folder, trees)
    config = unet_config(
        unet, in_channels=in_channels, tokens_dim=tokens_dim, sample_size=sample_size
    )
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", UNETS)
def test_unet_computes_the_same_and_so_does_its_export(name, tmp_path):
    assert check_unet(UNETS[name](), tmp_path) < TOLERANCE


def check_first_stage(model, folder, side=32):
    """Errors of encoder and decoder; the exported model has the same weights."""
    model.save_pretrained(folder / "theirs")
    imported = read_folder(folder / "theirs")
    image = np.random.default_rng(0).uniform(-1, 1, (1, side, side, 3))
    image = image.astype(np.float32)
    module = autoencoder_of(imported.sections["autoencoder"])

    def run(model):
        with torch.no_grad():
            encoded = model.encode(theirs.nchw(image))
            if hasattr(encoded, "latents"):
                moments = encoded.latents
            else:
                moments = encoded.latent_dist.parameters
            z = moments[:, : module.embed_dim]
            return theirs.nhwc(moments), theirs.nhwc(model.decode(z).sample)

    moments, decoded = run(model)
    write_folder(folder / "ours", imported.sections, imported.trees)
    again = type(model).from_pretrained(folder / "ours").eval()
    assert_same_weights(again, model)
    assert error_of(run(again)[1], decoded) < SAME

    @jax.jit
    def ours(params, image, z):
        encoded = module.apply({"params": params}, image, method="encode_moments")
        return encoded, module.apply({"params": params}, z, method="decode")

    params = arrays(imported.trees["autoencoder"])
    got = ours(params, image, moments[..., : module.embed_dim])
    return error_of(got[0], moments), error_of(got[1], decoded)


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_first_stage_computes_the_same_and_so_does_its_export(name, tmp_path):
    assert max(check_first_stage(FIRST_STAGES[name](), tmp_path)) < TOLERANCE


_LDM_BLOCKS = ("", "Attn", "Attn", "Attn")
_STABLE_BLOCKS = ("CrossAttn", "CrossAttn", "CrossAttn", "")
FULL_UNETS = {
    "ldm_ffhq_f4": lambda: theirs.unet(
        "UNet2DModel",
        (224, 448, 672, 896),
        _LDM_BLOCKS,
        attention_head_dim=32,
        layers_per_block=2,
    ),
    "ldm_super_resolution": lambda: theirs.unet(
        "UNet2DModel",
        (160, 320, 320, 640),
        ("", "", "", "Attn"),
        attention_head_dim=32,
        layers_per_block=2,
        in_channels=6,
    ),
    "stable_diffusion_1_at_half_width": lambda: theirs.unet(
        "UNet2DConditionModel",
        (160, 320, 640, 640),
        _STABLE_BLOCKS,
        cross_attention_dim=768,
        attention_head_dim=8,
        layers_per_block=2,
    ),
    "stable_diffusion_2_at_width_192": lambda: theirs.unet(
        "UNet2DConditionModel",
        (192, 384, 768, 768),
        _STABLE_BLOCKS,
        cross_attention_dim=1024,
        attention_head_dim=[3, 6, 12, 12],
        use_linear_projection=True,
        layers_per_block=2,
    ),
}
FULL_FIRST_STAGES = {
    "ldm_ffhq_f4": lambda: theirs.first_stage(
        "VQModel", (128, 256, 512), layers_per_block=2, num_vq_embeddings=8192
    ),
    "kl_f8": lambda: theirs.first_stage(
        "AutoencoderKL", (128, 256, 512, 512), layers_per_block=2, latent_channels=4
    ),
}


@pytest.mark.full
@pytest.mark.parametrize("name", FULL_UNETS)
def test_published_unet_computes_the_same(name, tmp_path):
    torch.set_num_threads(1)
    error = check_unet(FULL_UNETS[name](), tmp_path, side=32, batch=1)
    print(f"{name}: {error:.1e}")
    assert error < TOLERANCE


@pytest.mark.full
@pytest.mark.parametrize("name", FULL_FIRST_STAGES)
def test_published_first_stage_computes_the_same(name, tmp_path):
    torch.set_num_threads(1)
    errors = check_first_stage(FULL_FIRST_STAGES[name](), tmp_path, side=128)
    print(f"{name}: encoder {errors[0]:.1e}, decoder {errors[1]:.1e}")
    assert max(errors) < TOLERANCE


def our_model(imported):
    """The imported sections in a config of ours, and the parameters."""
    config = sd_v1.get_config()
    for part, section in imported.sections.items():
        if part == "task":
            continue
        replaces = part in ("backbone", "conditioner")
        section = section if replaces else config[part].to_dict() | section
        config[part] = ConfigDict(section)
    params = arrays(imported.trees)
    params["latent_scale"] = jnp.float32(config.latent.scale)
    ldm = build.latent_diffusion(config, imported.tokenizer.parent)
    return Model(config, ldm, params, tokenizer=load_tokenizer("clip"))


def check_pipeline(pipeline, folder, seed=3):
    """Share of channels that differ by more than 1 of 255, and the largest difference."""
    pipeline.save_pretrained(folder)
    model = our_model(read_folder(folder))
    prompts = ["a hand-painted fox, 4k", "two cups of tea"]
    keys = example_keys(jax.random.key(seed), jnp.arange(2))
    noise = normal_like(named_keys(keys, "noise")["noise"], jnp.zeros((2, 8, 8, 4)))

    pipeline.set_progress_bar_config(disable=True)
    wanted = pipeline(
        prompts,
        num_inference_steps=10,
        guidance_scale=5.0,
        latents=theirs.nchw(noise),
        output_type="np",
    ).images
    sample_fn = model.make_sample_fn(steps=10, batch_size=2)
    tokens = {"tokens": model.tokenizer(prompts)}
    guide = Guidance(jnp.float32(5.0))
    image = jax.jit(sample_fn)(model.params, keys, tokens, guidance=guide)
    ours = image_to_pixels(np.asarray(image)).astype(int)
    difference = np.abs(ours - np.round(wanted * 255).astype(int))
    assert wanted.std() > 0.05  # a picture, not a grey field
    return np.mean(difference > 1), difference.max()


@pytest.mark.parametrize("version", [1, pytest.param(2, marks=pytest.mark.full)])
def test_stable_diffusion_draws_the_same_pictures(version, tmp_path):
    load_tokenizer("clip").save(tmp_path / "clip")
    fields = {"blocks": ("CrossAttn",)}
    if version == 2:
        fields = {"act": "gelu", "use_linear_projection": True}
        fields["attention_head_dim"] = [4, 8]  # two levels
    pipeline = theirs.stable_diffusion(tmp_path / "clip", **fields)
    share, largest = check_pipeline(pipeline, tmp_path / "pipeline")
    print(f"Stable Diffusion {version}: {share:.4%} differ, at most by {largest}")
    assert share < 1e-3
