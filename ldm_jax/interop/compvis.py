"""A whole checkpoint of the original code: its parts, and what else lies in the file.

| names in the file                | ours                                                |
|----------------------------------|-----------------------------------------------------|
| `model.diffusion_model.*`        | group "backbone"                                    |
| `model_ema.*`, without dots      | the same group of the averaged parameters           |
| `cond_stage_model.*`             | group "conditioner"                                 |
| `first_stage_model.*`            | the frozen first stage, group "autoencoder"         |
| `scale_factor`                   | the measured latent scale                           |
| `betas`, `alphas_cumprod`, ...   | computed from the config; the betas are compared    |

A file of a first stage alone has its names without a prefix, and the discriminator under
`loss.discriminator.`.

The original averages the denoiser alone; where our average holds the conditioner too, an
export writes the conditioner's raw parameters, as the original would.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax import trees
from ldm_jax.diffusion.schedules import Schedule
from ldm_jax.interop.compvis_autoencoder import AUTOENCODER_RULES
from ldm_jax.interop.compvis_conditioner import (
    DENOISER,
    FIRST_STAGE,
    conditioner_part,
)
from ldm_jax.interop.compvis_discriminator import DISCRIMINATOR_RULES
from ldm_jax.interop.compvis_unet import unet_rules
from ldm_jax.interop.matching import Part
from ldm_jax.latent_diffusion import LatentDiffusion

PyTree = Any

EMA = "model_ema."
DISCRIMINATOR = "loss.discriminator."

SCHEDULE_BUFFERS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)

# Tensors that no parameter of ours takes: (regular expression of the name, why).
KNOWN = (
    ("|".join(SCHEDULE_BUFFERS), "noise schedule, computed from the config"),
    ("lvlb_weights|logvar", "constants of the training loss"),
    ("scale_factor", "kept as the latent scale"),
    (r"model_ema\.(decay|num_updates)", "state of the average, kept in the report"),
    (r"(first_stage_model\.)?loss\..*", "networks and constants of the training loss"),
    (r"cond_stage_model\..*\.position_ids", "the numbers 0, 1, 2, ..."),
    (r"cond_stage_model\.transformer\.to_logits\..*", "an output layer nothing calls"),
    (
        r"cond_stage_model\.model\.(text_projection|logit_scale|attn_mask)",
        "parts of OpenCLIP that the denoiser does not read",
    ),
)


def latent_diffusion_parts(
    ldm: LatentDiffusion, shapes: Mapping[str, PyTree]
) -> tuple[Part, ...]:
    """The parts of a whole checkpoint.

    Args:
      ldm: the model.
      shapes: trees of shapes of "backbone", "autoencoder" and, if it has parameters,
        "conditioner".

    Raises:
      ValueError: for a conditioner that the format has no place for.
    """
    params = [
        Part(
            "params",
            "backbone",
            DENOISER,
            unet_rules(ldm.backbone),  # pyright: ignore[reportArgumentType]
            trees.flatten(shapes["backbone"]),
        )
    ]
    conditioner = trees.flatten(shapes.get("conditioner", {}))
    if conditioner:
        params.append(conditioner_part(ldm.conditioner, conditioner))
    autoencoder = trees.flatten(shapes["autoencoder"])
    first_stage = Part(
        "frozen", "autoencoder", FIRST_STAGE, AUTOENCODER_RULES, autoencoder
    )
    return (*params, *map(_averaged, filter(_is_averaged, params)), first_stage)


def first_stage_parts(shapes: Mapping[str, PyTree]) -> tuple[Part, ...]:
    """The parts of a file that holds a first stage alone.

    Args:
      shapes: trees of shapes of "autoencoder" and, if it is trained against one,
        "discriminator" and its "batch_stats".
    """
    autoencoder = trees.flatten(shapes["autoencoder"])
    parts = [Part("params", "autoencoder", "", AUTOENCODER_RULES, autoencoder)]
    discriminator = functools.partial(
        Part, group="discriminator", prefix=DISCRIMINATOR, rules=DISCRIMINATOR_RULES
    )
    if "discriminator" in shapes:
        template = trees.flatten(shapes["discriminator"])
        parts.append(discriminator(item="params", template=template, is_optional=True))
    if "batch_stats" in shapes:
        root = "batch_stats/"
        flat = trees.flatten(shapes["batch_stats"])
        template = {root + name: leaf for name, leaf in flat.items()}
        parts.append(
            discriminator(
                item="collections", template=template, root=root, is_optional=True
            )
        )
    return tuple(parts)


def ema_name(name: str) -> str:
    """What the original calls the average of `name`: without `model.` and all dots."""
    return EMA + name.removeprefix("model.").replace(".", "")


def schedule_buffers(schedule: Schedule) -> dict[str, np.ndarray]:
    """The twelve buffers of the noise schedule, float32 [T], computed in float64.

    Raises:
      ValueError: for a process that does not preserve the variance.
    """
    if schedule.power != 2:
        raise ValueError(
            "the CompVis format knows no rectified flow: such a model cannot be exported"
        )
    betas, products = schedule.exact_betas, schedule.exact_alphas_cumprod
    previous = np.append(1.0, products[:-1])
    variance = betas * (1 - previous) / (1 - products)
    with np.errstate(divide="ignore"):  # no signal at the last step: infinite, as there
        values = (
            betas,
            products,
            previous,
            np.sqrt(products),
            np.sqrt(1 - products),
            np.log(1 - products),
            np.sqrt(1 / products),
            np.sqrt(1 / products - 1),
            variance,
            np.log(np.maximum(variance, 1e-20)),
            betas * np.sqrt(previous) / (1 - products),
            (1 - previous) * np.sqrt(1 - betas) / (1 - products),
        )
    return {
        name: value.astype(np.float32)
        for name, value in zip(SCHEDULE_BUFFERS, values, strict=True)
    }


def _is_averaged(part: Part) -> bool:
    return part.prefix == DENOISER


def _averaged(part: Part) -> Part:
    return Part(
        "ema",
        part.group,
        part.prefix,
        part.rules,
        part.template,
        root=part.root,
        rename=ema_name,
        is_optional=True,
    )
