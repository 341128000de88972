"""The `config.json` files as they were published, old and sparse."""

import pytest

from ldm_jax.interop.diffusers_autoencoder import autoencoder_section
from ldm_jax.interop.diffusers_conditioner import clip_section
from ldm_jax.interop.diffusers_scheduler import (
    diffusion_section,
    sampler_section,
    scheduler_config,
)
from ldm_jax.interop.diffusers_unet_config import unet_section

SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def test_an_old_unconditional_unet_is_the_published_one():
    config = {
        "_class_name": "UNet2DModel",
        "_diffusers_version": "0.0.4",
        "act_fn": "silu",
        "attention_head_dim": 32,
        "center_input_sample": False,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "resnet_extra": "unheard of",
        "sample_size": 64,
    }  # block types and widths are the class's defaults
    section, unread = unet_section(config, "unet/config.json")
    assert section["channel_mult"] == (1, 2, 3, 4)
    assert section["model_channels"] == 224
    assert section["attention_resolutions"] == (8, 4, 2)
    assert section["num_head_channels"] == 32
    assert unread == ["resnet_extra"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (8, {"num_heads": 8}),
        ([5, 10, 20, 20], {"num_head_channels": 64}),
        ([8, 8, 8, 8], {"num_heads": 8}),
    ],
)
def test_attention_head_dim_counts_heads_where_there_is_text(value, expected):
    config = {"_class_name": "UNet2DConditionModel", "attention_head_dim": value}
    section, _ = unet_section(config, "unet/config.json")
    heads = {
        k: v for k, v in section.items() if k in ("num_heads", "num_head_channels")
    }
    assert heads == expected


def test_an_old_vq_model_has_no_width_of_its_codes():
    config = {
        "_class_name": "VQModel",
        "block_out_channels": [128, 256, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "latent_channels": 3,
        "layers_per_block": 2,
        "num_vq_embeddings": 8192,
        "sample_size": 256,
    }
    section, unread = autoencoder_section(config, "vqvae/config.json")
    assert section["embed_dim"] == section["z_channels"] == 3
    assert section["num_embeddings"] == 8192
    assert not unread


@pytest.mark.parametrize(
    ("config", "grid", "final"),
    [
        ({"_class_name": "DDIMScheduler"}, "leading", "clean"),
        ({"_class_name": "PNDMScheduler", "steps_offset": 1}, "ddim_uniform", "first"),
        ({"timestep_spacing": "trailing"}, "trailing", "clean"),
    ],
)
def test_a_scheduler_says_where_sampling_starts_and_ends(config, grid, final):
    section = sampler_section(config)
    assert (section["grid"], section["final"]) == (grid, final)


@pytest.mark.parametrize(
    "config",
    [
        SCALED | {"prediction_type": "v_prediction"},
        SCALED | {"prediction_type": "sample", "rescale_betas_zero_snr": True},
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500},
    ],
)
def test_a_noise_schedule_goes_in_and_out(config):
    section = diffusion_section(config, "scheduler_config.json")
    written = scheduler_config(section, steps_offset=1, final="first")
    assert written | config == written
    assert diffusion_section(written, "") == section


@pytest.mark.parametrize("grid", ["leading", "linspace", "trailing"])
def test_a_grid_that_diffusers_knows_goes_in_and_out(grid):
    section = diffusion_section(SCALED, "scheduler_config.json")
    written = scheduler_config(section, grid=grid, steps_offset=0, final="clean")
    assert sampler_section(written)["grid"] == grid


def test_learned_variances_and_other_text_encoders_are_refused():
    with pytest.raises(ValueError, match="variance_type='learned_range'"):
        diffusion_section({"variance_type": "learned_range"}, "scheduler_config.json")
    with pytest.raises(ValueError, match="model_type='xlm-roberta'"):
        clip_section({"model_type": "xlm-roberta"}, "text_encoder/config.json")
    with pytest.raises(ValueError, match="'velocity'"):
        section = {"schedule": {"name": "linear"}, "prediction": "velocity"}
        scheduler_config(section, steps_offset=0, final="clean")
