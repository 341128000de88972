"""From a workdir, or the folder of a released model, to a `Model`."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ldm_jax import build, build_conditioner, pretrained, released, shipped
from ldm_jax import config as config_lib
from ldm_jax.conditioners.base import has_params
from ldm_jax.model import Model
from ldm_jax.training import checkpoints

DEMO = "emoji_text"  # under assets/


def load(
    workdir: str | Path | None = None, *, step: int | None = None, ema: bool = True
) -> Model:
    """Load a trained latent diffusion model.

    Args:
      workdir: of a run of train.py with a denoising config, or the folder of a released
        model; None for the one that comes with ldm_jax.
      step: of the checkpoint; None for the newest.
      ema: averaged parameters if the run kept them, else the raw ones.

    Raises:
      FileNotFoundError, ValueError: one sentence: missing, damaged, or no such model.
    """
    workdir = shipped.asset(DEMO) if workdir is None else Path(workdir)
    config = config_lib.load(workdir / "config.json")
    if config.get("task") != "denoising":
        raise ValueError(
            f"{workdir} holds a first stage or a text encoder, which draws no pictures: "
            "give the workdir of a latent diffusion model trained on it"
        )
    with config_lib.blaming(workdir / "config.json"):
        ldm = build.latent_diffusion(config, workdir)
        tokenizer = build_conditioner.tokenizer(config, workdir)
    if released.is_released(workdir):
        model = _released(config, ldm, workdir, step=step, ema=ema)
    else:
        model = _trained(config, workdir, step=step, ema=ema)
    return Model(
        config=config,
        ldm=ldm,
        params=jax.device_put({**model.params, "latent_scale": model.latent_scale}),
        class_names=model.class_names,
        tokenizer=tokenizer,
        step=model.step,
    )


def release(
    workdir: str | Path,
    output: str | Path,
    *,
    dtype: str = "float16",
    step: int | None = None,
) -> None:
    """Write the folder of a released model: a run's averaged parameters, whole.

    A frozen text encoder that is a released folder itself is referred to by a relative
    path, so that models may share it; the first stage is copied.

    Args:
      workdir: of a run of train.py with a denoising config.
      output: the folder; of one that is there, files are replaced.
      dtype: of the parameters; "float16" and "bfloat16" halve the size and round.
      step: of the checkpoint; None for the newest.

    Raises:
      FileNotFoundError, ValueError: one sentence: missing, damaged, or no such model.
    """
    workdir, output = Path(workdir), Path(output)
    model = load(workdir, step=step)
    config = model.config.copy_and_resolve_references()
    groups = {k: v for k, v in model.params.items() if k != "latent_scale"}
    config.autoencoder.checkpoint = ""
    tokenizer = _own_tokenizer(config, workdir)
    shared = _shared_encoder(config, workdir)
    if "checkpoint" in config.conditioner:
        config.conditioner.checkpoint = ""
    if shared is not None:
        groups.pop("conditioner")
        there = Path(os.path.relpath(shared.resolve(), output.resolve())).as_posix()
        config.conditioner.checkpoint = there
        if tokenizer == shared / released.TOKENIZER:
            config.tokenizer.path = f"{there}/{released.TOKENIZER}"
            tokenizer = None
    if tokenizer is not None:
        config.tokenizer.path = released.TOKENIZER
    stored = released.Released(
        params=groups,
        latent_scale=np.asarray(model.params["latent_scale"]),
        step=model.step,
        class_names=model.class_names,
    )
    released.write(output, config, stored, tokenizer=tokenizer, dtype=dtype)


def _shared_encoder(config: ConfigDict, workdir: Path) -> Path | None:
    """The released folder of a text encoder that was left as it is there."""
    path = config.conditioner.get("checkpoint", "")
    if not path or build_conditioner.is_trained(config):
        return None
    folder = config_lib.resolve(path, workdir)
    return folder if released.is_released(folder) else None


def _own_tokenizer(config: ConfigDict, workdir: Path) -> Path | None:
    path = (config.get("tokenizer") or {}).get("path", "")
    return config_lib.resolve(path, workdir) if path else None


def _trained(
    config: ConfigDict, workdir: Path, *, step: int | None, ema: bool
) -> released.Released:
    """A run's parameters with the frozen ones that it uses."""
    item = "ema" if ema else "params"
    params = checkpoints.load_params(workdir, item=item, step=step)
    collections = checkpoints.load_item(workdir, "collections", step=step)
    meta = checkpoints.load_meta(workdir, step=step)
    return released.Released(
        params={**pretrained.frozen(config, workdir), **params},
        latent_scale=collections["latent_scale"],
        step=int(meta["step"]),
        class_names=tuple(meta.get("class_names", ())),
    )


def _released(
    config: ConfigDict, ldm: Any, folder: Path, *, step: int | None, ema: bool
) -> released.Released:
    """A released model's, with the text encoder that it refers to."""
    model = released.read(folder)
    if not ema or step not in (None, model.step):
        raise ValueError(
            f"{folder} holds averaged parameters of step {model.step} and no others: "
            "leave --no_ema and --checkpoint_step out"
        )
    if "conditioner" in model.params or not has_params(ldm.conditioner):
        return model
    batch = build.example_batch(config, 1, ldm.conditioner)
    shapes = jax.eval_shape(ldm.conditioner.init, jax.random.key(0), batch)
    encoder = pretrained.conditioner(config, shapes.get("params"), folder)
    return dataclasses.replace(model, params={**model.params, "conditioner": encoder})
