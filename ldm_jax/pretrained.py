"""Parameters that a run starts from or leaves alone, read from other workdirs."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import dataclasses
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ldm_jax import build, released, trees
from ldm_jax import config as config_lib
from ldm_jax.features.weights import find_lpips_weights
from ldm_jax.training import checkpoints

PyTree = Any


def frozen(config: ConfigDict, workdir: Path | None = None) -> dict[str, PyTree]:
    """Parameters that the task uses and does not train, by group.

    Args:
      workdir: of the run; a relative path of a first stage is tried there first.

    Raises:
      ValueError, FileNotFoundError: one sentence if they are missing or do not fit.
    """
    if config.task == "autoencoding":
        if config.loss.perceptual_weight == 0:
            return {}
        return {"lpips": find_lpips_weights(config.loss.perceptual_weights_path)}
    path = config.autoencoder.checkpoint
    if not path:
        raise ValueError(
            "config.autoencoder.checkpoint is empty: train a first stage (see "
            "configs/autoencoder/) and give its workdir, as in "
            "--config.autoencoder.checkpoint=runs/vq_f4"
        )
    return {"autoencoder": _first_stage(config, config_lib.resolve(path, workdir))}


def conditioner(
    config: ConfigDict, shapes: PyTree, workdir: Path | None = None
) -> PyTree | None:
    """Parameters that a fresh training takes for its conditioner, averaged if they were.

    Args:
      shapes: the conditioner's parameters as shapes; None if it has none.

    Returns:
      None if the conditioner starts from scratch.

    Raises:
      ValueError, FileNotFoundError: one sentence if they are missing or do not fit, or if
        the conditioner is not trained and none are given.
    """
    if shapes is None:
        return None
    path = config.conditioner.get("checkpoint", "")
    if path:
        return _fitting_conditioner(config_lib.resolve(path, workdir), shapes)
    if config.conditioner.get("trainable", True):
        return None
    raise ValueError(
        "config.conditioner.checkpoint is empty and the conditioner is not trained: give "
        "the workdir of a model that has it, such as an imported Stable Diffusion, or "
        "--config.conditioner.trainable=True"
    )


def _first_stage(config: ConfigDict, workdir: Path) -> PyTree:
    """The autoencoder of a finished run, if it is the one this config describes."""
    trained = config_lib.load(workdir / "config.json")
    if trained.get("task") != "autoencoding" and not released.is_released(workdir):
        raise ValueError(
            f"{workdir} does not hold a first stage: give the workdir of a run of "
            "configs/autoencoder/*.py as config.autoencoder.checkpoint"
        )
    theirs, ours = _autoencoder_fields(trained), _autoencoder_fields(config)
    for name, value in ours.items():
        found = theirs.get(name)
        if found != value:
            raise ValueError(
                f"the first stage in {workdir} has {name}={found}, but this config "
                f"expects {name}={value}: give another checkpoint, or "
                f"--config.autoencoder.{name}={found}"
            )
    return _stored(workdir, "autoencoder")


def _autoencoder_fields(config: ConfigDict) -> dict[str, Any]:
    """What a first stage computes depends on, fields that its config leaves out too."""
    module = build.autoencoder(config)
    run_only = ("parent", "name", "dtype", "dropout", "remat", "quant_init")
    names = [f.name for f in dataclasses.fields(module) if f.name not in run_only]
    return {"name": config.autoencoder.name} | {n: getattr(module, n) for n in names}


def _fitting_conditioner(workdir: Path, shapes: PyTree) -> PyTree:
    found = _stored(workdir, "conditioner")
    if found is None:
        raise ValueError(
            f"{workdir} has no conditioner: give the workdir of a model that has one as "
            "config.conditioner.checkpoint"
        )
    ours, theirs = trees.flatten(shapes), trees.flatten(found)
    for name in sorted(ours.keys() | theirs.keys()):
        sizes = [t[name].shape if name in t else "missing" for t in (ours, theirs)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"the conditioner in {workdir} is another one: {name} is {sizes[1]} "
                f"there and {sizes[0]} here; give another config.conditioner.checkpoint"
            )
    return found


def _stored(folder: Path, group: str) -> PyTree | None:
    """One group of parameters of a run or of a released model, averaged if they were."""
    if released.is_released(folder):
        return released.read(folder, groups=(group,)).params.get(group)
    return checkpoints.load_params(folder, groups=(group,)).get(group)
