"""State dicts like those of published files, of any model, with random values."""

import numpy as np

from ldm_jax.conversion import describing
from ldm_jax.interop.compvis import SCHEDULE_BUFFERS, ema_name
from ldm_jax.interop.compvis_text import join_in_proj
from ldm_jax.lazy_array import LazyArray, read_array

SCHEDULE_NAMES = SCHEDULE_BUFFERS
EMA_DECAY, EMA_UPDATES = np.float32(0.9999), np.int32(123)


def state_dict(config, *, with_ema=True, seed=0) -> dict[str, np.ndarray]:
    """Everything that the original would save for a model of this config."""
    random = np.random.default_rng(seed)
    description = describing.describe(config)
    weights = {
        name: random.standard_normal(target.torch_shape, dtype=np.float32)
        for part in description.parts
        if part.item != "ema"
        for name, target in part.targets.items()
    }
    weights = {
        name: np.abs(value) if name.endswith("running_var") else value
        for name, value in weights.items()
    }
    if config.task == "autoencoding":
        return weights
    state = buffers(config) | weights
    if with_ema:
        shadow = {
            ema_name(name): value + np.float32(0.5)
            for name, value in weights.items()
            if name.startswith("model.diffusion_model.")
        }
        state |= shadow | {
            "model_ema.decay": EMA_DECAY,
            "model_ema.num_updates": EMA_UPDATES,
        }
    return {name: read_array(value) for name, value in join_in_proj(state).items()}


def buffers(config) -> dict[str, np.ndarray]:
    """The noise schedule by the original's formulas, and the measured latent scale."""
    section = config.diffusion.schedule
    ends = np.sqrt([section.beta_start, section.beta_end])
    betas = np.linspace(*ends, section.num_timesteps) ** 2
    alphas_cumprod = np.cumprod(1 - betas)
    previous = np.append(1.0, alphas_cumprod[:-1])
    variance = betas * (1 - previous) / (1 - alphas_cumprod)
    values = {
        "betas": betas,
        "alphas_cumprod": alphas_cumprod,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": np.sqrt(alphas_cumprod),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - alphas_cumprod),
        "log_one_minus_alphas_cumprod": np.log(1 - alphas_cumprod),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / alphas_cumprod),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / alphas_cumprod - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1 - alphas_cumprod),
        "posterior_mean_coef2": (
            (1 - previous) * np.sqrt(1 - betas) / (1 - alphas_cumprod)
        ),
    }
    if config.latent.scale_by_std:
        values["scale_factor"] = np.array(0.7261)
    return {name: value.astype(np.float32) for name, value in values.items()}


def unused(config) -> dict[str, np.ndarray]:
    """What the original's modules save besides and never use."""
    clip = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    open_clip = "cond_stage_model.model"
    name, parts = config.conditioner.name, config.conditioner.to_dict()
    if name == "token_transformer":
        rows, width = config.conditioner.vocab_size, config.conditioner.embed_dim
        layer = "cond_stage_model.transformer.to_logits"
        return {
            f"{layer}.weight": np.ones((rows, width), np.float32),
            f"{layer}.bias": np.ones(rows, np.float32),
        }
    if name == "clip_text" and config.conditioner.activation == "gelu":
        return {
            f"{open_clip}.text_projection": np.ones((8, 8), np.float32),
            f"{open_clip}.logit_scale": np.float32(4.6),
        }
    if name == "clip_text" or "text" in parts:
        return {clip: np.arange(77)[None]}
    return {}


def lazily(state):
    """The same, read on demand; what `write_safetensors` streams."""
    return {
        name: LazyArray(value.shape, value.dtype, lambda value=value: value)
        for name, value in state.items()
    }


def lightning_content(state, *, step):
    """What pytorch-lightning's `.ckpt` holds, with torch tensors."""
    import collections

    import torch

    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    return {
        "epoch": 3,
        "global_step": step,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": collections.OrderedDict(tensors),
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.1)}},
        "optimizer_states": [
            {"state": {0: {"step": 5, "exp_avg": torch.ones(3)}}, "param_groups": []}
        ],
        "lr_schedulers": [],
    }
