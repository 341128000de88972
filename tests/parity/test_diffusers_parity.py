"""Imported networks compute what diffusers does, and diffusers what exported ones do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.interop.diffusers import read_folder, write_folder
from ldm_jax.interop.diffusers_modules import autoencoder_of, unet_of
from ldm_jax.lazy_array import read_array
from ldm_jax.nn.conditioning import Conditioning

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from tests.parity import torch_diffusers as theirs

TOLERANCE = 1e-4  # of the largest value

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
        (32, 64),
        ("CrossAttn", ""),
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
    "vq_with_attention": lambda: theirs.first_stage(
        "VQModel",
        (32, 64),
        ("", "Attn"),
        latent_channels=4,
        vq_embed_dim=3,
        num_vq_embeddings=64,
    ),
    "vq_without_attention": lambda: theirs.first_stage(
        "VQModel", (32, 64), mid_block_add_attention=False
    ),
}


def error_of(ours, wanted):
    """Largest difference relative to the largest value."""
    return np.abs(np.asarray(ours) - wanted).max() / np.abs(wanted).max()


def arrays(tree):
    """Lazy arrays, read."""
    return jax.tree.map(read_array, tree)


def check_unet(model, folder, side=16, batch=2):
    """Both directions for one U-Net; returns the error of the import."""
    model.save_pretrained(folder / "theirs")
    imported = read_folder(folder / "theirs")
    random = np.random.default_rng(0)
    shape = (batch, side, side, model.config.in_channels)
    x, t = random.normal(size=shape).astype(np.float32), np.arange(batch) * 700 + 3
    width = getattr(model.config, "cross_attention_dim", None)
    tokens = None
    if width:
        tokens = random.normal(size=(batch, 7, width)).astype(np.float32)

    def run(module):
        seen = () if tokens is None else (torch.from_numpy(tokens),)
        with torch.no_grad():
            out = module(theirs.nchw(x), torch.from_numpy(t), *seen).sample
        return theirs.nhwc(out)

    unet = unet_of(imported.sections["backbone"], model.config.out_channels)
    params = arrays(imported.trees["backbone"])
    cond = Conditioning(None if tokens is None else jnp.asarray(tokens))
    ours = jax.jit(unet.apply)({"params": params}, x, jnp.asarray(t), cond)
    wanted = run(model)
    return error_of(ours, wanted), imported, wanted, run


@pytest.mark.parametrize("name", UNETS)
def test_unet_computes_the_same(name, tmp_path):
    error, *_ = check_unet(UNETS[name](), tmp_path)
    assert error < TOLERANCE


def check_first_stage(model, folder, side=32):
    """(errors of encoder and decoder, the imported model)."""
    model.save_pretrained(folder / "theirs")
    imported = read_folder(folder / "theirs")
    image = np.random.default_rng(0).uniform(-1, 1, (1, side, side, 3))
    image = image.astype(np.float32)
    module = autoencoder_of(imported.sections["autoencoder"])
    params = arrays(imported.trees["autoencoder"])

    def encode_and_decode(model):
        with torch.no_grad():
            encoded = model.encode(theirs.nchw(image))
            if hasattr(encoded, "latents"):
                moments = encoded.latents
            else:
                moments = encoded.latent_dist.parameters
            z = moments[:, : module.embed_dim]
            return theirs.nhwc(moments), theirs.nhwc(model.decode(z).sample)

    @jax.jit
    def ours(params, image, z):
        encoded = module.apply({"params": params}, image, method="encode_moments")
        return encoded, module.apply({"params": params}, z, method="decode")

    moments, decoded = encode_and_decode(model)
    got = ours(params, image, moments[..., : module.embed_dim])
    errors = error_of(got[0], moments), error_of(got[1], decoded)
    return errors, imported, decoded, encode_and_decode


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_first_stage_computes_the_same_and_so_does_its_export(name, tmp_path):
    model = FIRST_STAGES[name]()
    errors, imported, decoded, run = check_first_stage(model, tmp_path)
    assert max(errors) < TOLERANCE
    write_folder(tmp_path / "ours", imported.sections, imported.trees)
    again = type(model).from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_array_equal(run(again)[1], decoded)
