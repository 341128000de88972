"""The section `diffusion` of a config: the process, and the loss of training.

`loss`, `weighting` and `time_sampling` are sections; a bare name stands for
`{"name": name}`.
"""

from collections.abc import Mapping
from typing import Any

from ldm_jax.diffusion import (
    NORMS,
    PREDICTIONS,
    SCHEDULES,
    TIME_SAMPLINGS,
    WEIGHTINGS,
)
from ldm_jax.diffusion.predictions import Prediction, check_readable
from ldm_jax.diffusion.schedules import Schedule, zero_terminal_snr
from ldm_jax.latent_diffusion import LatentDiffusion
from ldm_jax.sections import from_table, look_up
from ldm_jax.tasks.denoising import DenoisingLoss

Section = Mapping[str, Any]

# Tables hold a float64 for each; the published models have 1000.
MAX_TIMESTEPS = 1_000_000


def process(section: Section) -> tuple[Schedule, Prediction]:
    """The noise levels and what the backbone outputs at them.

    Raises:
      ValueError: an unknown name or field, a number of timesteps out of range, or eps on
        a schedule that ends in pure noise.
    """
    fields = dict(section["schedule"])
    num_timesteps = fields.get("num_timesteps", 1000)
    if isinstance(num_timesteps, int) and not 1 <= num_timesteps <= MAX_TIMESTEPS:
        raise ValueError(
            f"config.diffusion.schedule.num_timesteps is {num_timesteps}: give 1 to "
            f"{MAX_TIMESTEPS:,}"
        )
    is_rescaled = fields.pop("zero_terminal_snr", False)
    schedule = from_table(SCHEDULES, fields, "diffusion.schedule")
    if is_rescaled:
        schedule = zero_terminal_snr(schedule)
    prediction = look_up(PREDICTIONS, section["prediction"], "diffusion.prediction")
    check_readable(prediction, schedule)
    return schedule, prediction


def denoising_loss(section: Section, ldm: LatentDiffusion) -> DenoisingLoss:
    """What training minimises; fields left out are those of the published models.

    Raises:
      ValueError: an unknown name or field, or a number out of range.
    """
    weighting = _named(section.get("weighting", "simple"))
    times = _named(section.get("time_sampling", "uniform"))
    return DenoisingLoss(
        ldm,
        norm=from_table(NORMS, _named(section.get("loss", "l2")), "diffusion.loss"),
        weights=from_table(
            WEIGHTINGS,
            weighting,
            "diffusion.weighting",
            schedule=ldm.schedule,
            prediction=ldm.prediction,
        ),
        vlb_scale=section.get("original_elbo_weight", 0.0),
        time_sampling=from_table(
            TIME_SAMPLINGS, times, "diffusion.time_sampling", schedule=ldm.schedule
        ),
        offset_noise=section.get("offset_noise", 0.0),
        learn_log_variance=section.get("learn_log_variance", False),
    )


def _named(section: Section | str) -> Section:
    return {"name": section} if isinstance(section, str) else section
