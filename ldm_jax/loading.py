"""From a workdir to a `Model`."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

from pathlib import Path

import jax

from ldm_jax import build, build_conditioner, pretrained
from ldm_jax import config as config_lib
from ldm_jax.model import Model
from ldm_jax.training import checkpoints


def load(workdir: str | Path, *, step: int | None = None, ema: bool = True) -> Model:
    """Load a trained latent diffusion model from its workdir.

    Args:
      workdir: of a run of train.py with a denoising config.
      step: of the checkpoint; None for the newest.
      ema: averaged parameters if the run kept them, else the raw ones.

    Raises:
      FileNotFoundError, ValueError: one sentence: missing, damaged, or no such model.
    """
    workdir = Path(workdir)
    config = config_lib.load(workdir / "config.json")
    if config.get("task") != "denoising":
        raise ValueError(
            f"{workdir} holds a first stage, which draws no pictures: give the workdir "
            "of a latent diffusion model trained on it"
        )
    with config_lib.blaming(workdir / "config.json"):
        ldm = build.latent_diffusion(config, workdir)
        tokenizer = build_conditioner.tokenizer(config, workdir)
    item = "ema" if ema else "params"
    params = checkpoints.load_params(workdir, item=item, step=step)
    collections = checkpoints.load_item(workdir, "collections", step=step)
    meta = checkpoints.load_meta(workdir, step=step)
    return Model(
        config=config,
        ldm=ldm,
        params=jax.device_put(
            {
                **pretrained.frozen(config, workdir),
                **params,
                "latent_scale": collections["latent_scale"],
            }
        ),
        class_names=tuple(meta.get("class_names", ())),
        tokenizer=tokenizer,
        step=int(meta["step"]),
    )
