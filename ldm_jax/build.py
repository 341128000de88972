"""From config sections to objects: the only place that reads a ConfigDict.

A section such as `{"name": "ddim", "eta": 0.0}` becomes `SAMPLERS["ddim"](eta=0.0)`: its
fields are the constructor's own arguments.
"""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportReturnType=false, reportTypedDictNotRequiredAccess=false

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ldm_jax import config as config_lib
from ldm_jax.adversarial.patchgan import PatchDiscriminator
from ldm_jax.autoencoders import AUTOENCODERS
from ldm_jax.backbones import BACKBONES
from ldm_jax.conditioners import CONDITIONERS
from ldm_jax.data.sources import open_source
from ldm_jax.data.transforms import SquareImage
from ldm_jax.diffusion import PREDICTIONS, SCHEDULES, WEIGHTINGS
from ldm_jax.evaluation.image_quality import psnr
from ldm_jax.features.lpips import lpips, param_shapes
from ldm_jax.features.weights import find_lpips_weights
from ldm_jax.latent_diffusion import LatentDiffusion
from ldm_jax.nn.initializers import INITS
from ldm_jax.rng import named_keys
from ldm_jax.samplers import SAMPLERS, Sampler
from ldm_jax.tasks.autoencoding import (
    AdversarialLoss,
    Autoencoding,
    autoencoding_task,
)
from ldm_jax.tasks.denoising import DenoisingLoss, denoising_task
from ldm_jax.tasks.reconstruction import ReconstructionLoss
from ldm_jax.training import checkpoints
from ldm_jax.training.ema import Ema, ema, ramp
from ldm_jax.training.optimizers import OPTIMIZERS
from ldm_jax.training.optimizers import SCHEDULES as RATE_SCHEDULES
from ldm_jax.training.task import Task

PyTree = Any
Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What one config trains, without any array.

    Attributes:
      task: the objectives.
      init: `key -> (params, collections)`, pure.
      evaluate: `(params, collections, frozen, batch, key) -> {name: [b]}`.
      ldm: the model, if the task is denoising.
      autoencoder: the first stage, trained or frozen.
    """

    task: Task
    init: Callable[[jax.Array], tuple[dict, dict]]
    evaluate: Callable[..., dict[str, jax.Array]]
    autoencoder: Any
    ldm: LatentDiffusion | None = None


def experiment(config: ConfigDict) -> Experiment:
    """The objects behind a checked config.

    Raises:
      ValueError: an unknown name or field of a section, with those there are.
    """
    return {"autoencoding": _autoencoding, "denoising": _denoising}[config.task](config)


def autoencoder(config: ConfigDict) -> Any:
    """The first stage of `config.autoencoder`, a linen module."""
    section = {k: v for k, v in config.autoencoder.items() if k != "checkpoint"}
    return _from_table(AUTOENCODERS, section, "autoencoder", dtype=_dtype(config))


def latent_diffusion(config: ConfigDict) -> LatentDiffusion:
    """The model of a denoising config; channels and widths follow from its parts."""
    first_stage = autoencoder(config)
    backbone = _from_table(
        BACKBONES,
        config.backbone,
        "backbone",
        out_channels=first_stage.latent_channels,
        dtype=_dtype(config),
    )
    diffusion = config.diffusion
    return LatentDiffusion(
        autoencoder=first_stage,
        backbone=backbone,
        conditioner=_conditioner(config),
        schedule=_from_table(SCHEDULES, diffusion.schedule, "diffusion.schedule"),
        prediction=_look_up(PREDICTIONS, diffusion.prediction, "diffusion.prediction"),
    )


def sampler(section: Mapping[str, Any], ldm: LatentDiffusion) -> Sampler:
    """The sampler of a section such as `config.sampler`, on the model's schedule."""
    fields = {k: v for k, v in section.items() if k != "guidance_scale"}
    return _from_table(SAMPLERS, fields, "sampler", schedule=ldm.schedule)


def optimizers(
    config: ConfigDict, task: Task
) -> dict[str, optax.GradientTransformation]:
    """One optimizer, all with the same settings, for each objective."""
    section = dict(config.optimizer)
    rate = _from_table(
        RATE_SCHEDULES,
        section.pop("schedule"),
        "optimizer.schedule",
        learning_rate=config.train.learning_rate,
    )
    optimizer = _from_table(OPTIMIZERS, section, "optimizer", learning_rate=rate)
    return {name: optimizer for name in task.objectives}


def average(config: ConfigDict, task: Task) -> Ema | None:
    """The EMA of everything but the discriminator, or None if `ema_decay` is 0."""
    if config.train.ema_decay == 0:
        return None
    trained = [group for o in task.objectives.values() for group in o.trains]
    groups = tuple(group for group in trained if group != "discriminator")
    return ema(ramp(config.train.ema_decay), groups)


def data(config: ConfigDict, *, split: str = "train") -> tuple[Any, SquareImage]:
    """The source of pictures and the transform that makes them square."""
    section = config.data
    if not section.source:
        raise ValueError(
            "config.data.source is empty: give --config.data.source=folder:PATH "
            "(or tfds:NAME, array_record:GLOB, emoji64)"
        )
    source = open_source(section.source, split=split)
    if config.task == "denoising" and config.conditioner.name == "class_label":
        _check_classes(source, config.conditioner.num_classes)
    transform = SquareImage(
        image_size=section.image_size,
        resize=section.resize,
        crop=section.crop,
        flip_rate=section.flip_rate,
    )
    return source, transform


def frozen(config: ConfigDict) -> dict[str, PyTree]:
    """Parameters that the task uses and does not train, read from disk.

    Raises:
      ValueError, FileNotFoundError: one sentence if they are missing or do not fit.
    """
    if config.task == "autoencoding":
        if config.loss.perceptual_weight == 0:
            return {}
        return {"lpips": find_lpips_weights(config.loss.perceptual_weights_path)}
    workdir = config.autoencoder.checkpoint
    if not workdir:
        raise ValueError(
            "config.autoencoder.checkpoint is empty: train a first stage (see "
            "configs/autoencoder/) and give its workdir, as in "
            "--config.autoencoder.checkpoint=runs/vq_f4"
        )
    return {"autoencoder": _first_stage_params(config, Path(workdir))}


def lpips_shapes() -> PyTree:
    """Shapes of the LPIPS parameters, weights or no weights at hand."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        param_shapes(),
        is_leaf=lambda x: isinstance(x, tuple),
    )


def example_batch(config: ConfigDict, batch_size: int) -> dict[str, Any]:
    """Shapes of the images and labels of a batch."""
    size = config.data.image_size
    image = jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.float32)
    batch = {"image": image}
    if config.task == "denoising" and config.conditioner.name == "class_label":
        batch["class_label"] = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return batch


def _autoencoding(config: ConfigDict) -> Experiment:
    module = autoencoder(config)
    section = dict(config.loss)
    section.pop("perceptual_weights_path")
    regularizer_weight = section.pop("regularizer_weight")
    adversarial = dict(config.adversarial)
    has_discriminator = _look_up(
        {"patchgan": True, "none": False}, adversarial.pop("name"), "adversarial.name"
    )
    network = {k: adversarial.pop(k) for k in ("ndf", "num_layers")}
    discriminator = PatchDiscriminator(**network, dtype=_dtype(config))
    spec = Autoencoding(
        autoencoder=module,
        reconstruction=_call(
            ReconstructionLoss, section, "loss", perceptual_dtype=_dtype(config)
        ),
        regularizer_weight=regularizer_weight,
        discriminator=discriminator if has_discriminator else None,
        adversarial=_call(AdversarialLoss, adversarial, "adversarial")
        if has_discriminator
        else None,
    )

    def init(key: jax.Array) -> tuple[dict, dict]:
        keys = named_keys(key, "autoencoder", "posterior", "discriminator")
        image = jnp.zeros(example_batch(config, 1)["image"].shape)
        variables = module.init(keys["autoencoder"], image, keys["posterior"])
        start = _look_up(INITS, config.train.init, "train.init")
        params, collections = {"autoencoder": start(variables["params"])}, {}
        if has_discriminator:
            variables = discriminator.init(keys["discriminator"], image, train=False)
            params["discriminator"] = variables["params"]
            collections["discriminator"] = {"batch_stats": variables["batch_stats"]}
        return params, collections

    def evaluate(params, collections, frozen, batch, key):
        del collections, key
        image = batch["image"]
        reconstruction = reconstruct(module, params["autoencoder"], image)
        values = {"psnr": psnr(reconstruction, image)}
        if "lpips" in frozen:
            values["lpips"] = lpips(frozen["lpips"], reconstruction, image)
        return values

    return Experiment(autoencoding_task(spec), init, evaluate, module)


def reconstruct(module: Any, params: PyTree, image: jax.Array) -> jax.Array:
    """Image -> mode of its latent -> image `[b H W 3]`, clipped to [-1, 1]."""
    latent = module.apply({"params": params}, image, method="encode")
    decoded = module.apply({"params": params}, latent.mode(), method="decode")
    return jnp.clip(decoded.astype(jnp.float32), -1, 1)


def _denoising(config: ConfigDict) -> Experiment:
    ldm = latent_diffusion(config)
    weighting = _look_up(WEIGHTINGS, config.diffusion.weighting, "diffusion.weighting")
    loss = DenoisingLoss(
        ldm,
        norm=config.diffusion.loss,
        weights=weighting(ldm.schedule, ldm.prediction),
        vlb_scale=config.diffusion.original_elbo_weight,
    )

    def init(key: jax.Array) -> tuple[dict, dict]:
        batch = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), example_batch(config, 1)
        )
        scale = jnp.float32(config.latent.scale)
        start = _look_up(INITS, config.train.init, "train.init")
        params = ldm.init_params(key, batch)
        params["backbone"] = start(params["backbone"])
        return params, {"latent_scale": scale}

    return Experiment(denoising_task(loss), init, loss.evaluate, ldm.autoencoder, ldm)


def _conditioner(config: ConfigDict) -> Any:
    section = dict(config.conditioner)
    if section["name"] == "none":
        return None
    if section.get("slot") == "vector":  # as wide as the time embedding it joins
        section["embed_dim"] = 4 * config.backbone.model_channels
    return _from_table(CONDITIONERS, section, "conditioner", dtype=_dtype(config))


def _check_classes(source: Any, num_classes: int) -> None:
    found = len(source.class_names)
    if found and found != num_classes:
        raise ValueError(
            f"{source.spec} has {found} classes, but the config says "
            f"--config.conditioner.num_classes={num_classes}: set it to {found}"
        )
    if not found and "class_label" not in source.annotation(0):
        raise ValueError(
            f"{source.spec} has no classes, but the config asks for "
            f"--config.conditioner.num_classes={num_classes}: sort the pictures into one "
            "subfolder a class, or set --config.conditioner.name=none"
        )


def _first_stage_params(config: ConfigDict, workdir: Path) -> PyTree:
    """The autoencoder of a finished run, if it is the one this config describes."""
    trained = config_lib.load(workdir / "config.json")
    if trained.get("task") != "autoencoding":
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
    return checkpoints.load_params(workdir)["autoencoder"]


def _autoencoder_fields(config: ConfigDict) -> dict[str, Any]:
    """What a first stage computes depends on, fields that its config leaves out too."""
    module = autoencoder(config)
    run_only = ("parent", "name", "dtype", "dropout", "remat", "quant_init")
    names = [f.name for f in dataclasses.fields(module) if f.name not in run_only]
    return {"name": config.autoencoder.name} | {n: getattr(module, n) for n in names}


def _dtype(config: ConfigDict) -> Any:
    return jnp.dtype(config.train.precision)


def _look_up(table: Mapping[str, Any], name: str, field: str) -> Any:
    if name not in table:
        raise ValueError(
            f"config.{field} is {name!r}: choose one of {', '.join(table)}"
        )
    return table[name]


def _from_table(
    table: Mapping[str, Any], section: Mapping[str, Any], where: str, **derived: Any
) -> Any:
    fields = dict(section)
    constructor = _look_up(table, fields.pop("name"), f"{where}.name")
    return _call(constructor, fields, where, **derived)


def _call(
    constructor: Any, fields: Mapping[str, Any], where: str, **derived: Any
) -> Any:
    values = {name: _frozen_value(value) for name, value in fields.items()}
    try:
        return constructor(**values, **derived)
    except TypeError as error:
        raise ValueError(
            f"config.{where} does not fit {constructor.__name__}: {error}"
        ) from error


def _frozen_value(value: Any) -> Any:
    """Lists, which JSON makes of tuples, back to tuples: modules must be hashable."""
    return tuple(value) if isinstance(value, list | tuple) else value
