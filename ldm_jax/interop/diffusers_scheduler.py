"""A diffusers `scheduler_config.json` <-> our `diffusion` and `sampler` sections.

Of a scheduler only what the model was trained with matters (its betas and what it
predicts), and where sampling ends; which sampler to use is the user's choice here.
"""

from collections.abc import Mapping
from typing import Any

from ldm_jax.interop.diffusers_fields import check_fields, unsupported

# Ours -> diffusers'. What LDM calls linear is linear in sqrt(beta).
_SCHEDULES = {
    "linear": "scaled_linear",
    "sqrt_linear": "linear",
    "cosine": "squaredcos_cap_v2",
}
_PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
_ACCEPTED = {
    "trained_betas": (None,),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "rescale_betas_zero_snr": (False, True),
}


def diffusion_section(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Schedule and prediction, as our `diffusion` section has them.

    Raises:
      ValueError: names a field whose value has no counterpart here.
    """
    check_fields(config, _ACCEPTED, where)
    if str(config.get("variance_type", "")).startswith("learned"):
        value = config["variance_type"]
        raise unsupported(where, "variance_type", value, "fixed variances")
    theirs = config.get("beta_schedule", "linear")
    name = {v: k for k, v in _SCHEDULES.items()}[theirs]
    schedule: dict[str, Any] = {
        "name": name,
        "num_timesteps": config.get("num_train_timesteps", 1000),
    }
    if name != "cosine":
        schedule["beta_start"] = config.get("beta_start", 1e-4)
        schedule["beta_end"] = config.get("beta_end", 2e-2)
    schedule["zero_terminal_snr"] = config.get("rescale_betas_zero_snr", False)
    prediction = config.get("prediction_type", "epsilon")
    ours = {v: k for k, v in _PREDICTIONS.items()}[prediction]
    return {"schedule": schedule, "prediction": ours}


_SPACINGS = ("leading", "linspace", "trailing")


def sampler_section(config: Mapping[str, Any]) -> dict[str, Any]:
    """DDIM along the scheduler's own timesteps.

    diffusers' "leading" spacing with `steps_offset=1` is the reference's list where the
    number of steps divides that of timesteps.
    """
    spacing = config.get("timestep_spacing", "leading")
    if spacing == "leading" and config.get("steps_offset", 0) == 1:
        spacing = "ddim_uniform"
    is_pndm = config.get("_class_name") == "PNDMScheduler"  # has another default
    to_one = config.get("set_alpha_to_one", not is_pndm)
    final = "clean" if to_one else "first"
    return {"name": "ddim", "grid": spacing, "final": final}


def scheduler_config(
    diffusion: Mapping[str, Any],
    *,
    grid: str = "leading",
    steps_offset: int,
    final: str,
) -> dict[str, Any]:
    """A DDIMScheduler for the schedule and prediction of our `diffusion` section.

    Args:
      grid: of `config.sampler`; of those that diffusers has no spacing for it gets the
        nearest to the reference's own, "leading".
      steps_offset: added to every timestep; 1 in Stable Diffusion's folders, 0 in LDM's.
      final: "clean" or "first", as in `make_levels`.

    Raises:
      ValueError: for a schedule or a prediction that diffusers does not know.
    """
    schedule, prediction = dict(diffusion["schedule"]), diffusion["prediction"]
    name = schedule.pop("name")
    if prediction not in _PREDICTIONS:
        raise ValueError(
            f"no scheduler of these diffusers pipelines has diffusion.prediction "
            f"{prediction!r}: export with --format=compvis"
        )
    if name not in _SCHEDULES or schedule.get("offset", 8e-3) != 8e-3:
        raise ValueError(
            f"diffusers has no noise schedule like diffusion.schedule {name!r} with "
            f"{schedule}: export with --format=compvis"
        )
    config: dict[str, Any] = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": schedule.get("num_timesteps", 1000),
        "beta_schedule": _SCHEDULES[name],
        "prediction_type": _PREDICTIONS[prediction],
        "rescale_betas_zero_snr": bool(schedule.get("zero_terminal_snr", False)),
        "timestep_spacing": grid if grid in _SPACINGS else "leading",
        "steps_offset": steps_offset,
        "set_alpha_to_one": final == "clean",
        "clip_sample": False,
    }
    if name != "cosine":
        config["beta_start"] = schedule.get("beta_start", 1e-4)
        config["beta_end"] = schedule.get("beta_end", 2e-2)
    return config
