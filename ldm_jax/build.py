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
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ldm_jax import build_conditioner, build_diffusion
from ldm_jax.adversarial.patchgan import PatchDiscriminator
from ldm_jax.autoencoders import AUTOENCODERS
from ldm_jax.backbones import BACKBONES
from ldm_jax.diffusion.schedules import Schedule
from ldm_jax.evaluation.image_quality import psnr
from ldm_jax.features.lpips import lpips, param_shapes
from ldm_jax.guidance import Guidance
from ldm_jax.latent_diffusion import LatentDiffusion
from ldm_jax.nn.initializers import INITS
from ldm_jax.rng import named_keys
from ldm_jax.samplers import SAMPLERS, Plan, Sampler, bucket, make_levels, pad
from ldm_jax.samplers.grids import from_strength
from ldm_jax.sections import call, from_table, frozen_value, look_up
from ldm_jax.tasks.autoencoding import (
    AdversarialLoss,
    Autoencoding,
    autoencoding_task,
)
from ldm_jax.tasks.denoising import denoising_task
from ldm_jax.tasks.reconstruction import ReconstructionLoss
from ldm_jax.training.ema import Ema, ema, ramp
from ldm_jax.training.optimizers import OPTIMIZERS
from ldm_jax.training.optimizers import SCHEDULES as RATE_SCHEDULES
from ldm_jax.training.task import Task

PyTree = Any
Batch = Mapping[str, jax.Array]

# Of the section `sampler`: what chooses levels, and what guides; the rest are options.
LEVEL_FIELDS = ("name", "num_steps", "grid", "final")
GUIDANCE_FIELDS = ("guidance_scale", "guidance_rescale", "guidance_interval")
# Parameters that serve a loss alone.
LOSS_GROUPS = ("discriminator", "log_variance")


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


def experiment(config: ConfigDict, workdir: Path | None = None) -> Experiment:
    """The objects behind a checked config.

    Args:
      workdir: of the run; what the config names by a relative path is looked for there
        first.

    Raises:
      ValueError: an unknown name or field of a section, with those there are.
    """
    if config.task == "autoencoding":
        return _autoencoding(config)
    return _denoising(config, workdir)


def autoencoder(config: ConfigDict) -> Any:
    """The first stage of `config.autoencoder`, a linen module."""
    section = {k: v for k, v in config.autoencoder.items() if k != "checkpoint"}
    return from_table(AUTOENCODERS, section, "autoencoder", dtype=_dtype(config))


def latent_diffusion(
    config: ConfigDict, workdir: Path | None = None
) -> LatentDiffusion:
    """The model of a denoising config; channels and widths follow from its parts."""
    first_stage = autoencoder(config)
    backbone = from_table(
        BACKBONES,
        config.backbone,
        "backbone",
        out_channels=first_stage.latent_channels,
        dtype=_dtype(config),
    )
    schedule, prediction = build_diffusion.process(config.diffusion)
    return LatentDiffusion(
        autoencoder=first_stage,
        backbone=backbone,
        conditioner=build_conditioner.conditioner(config, workdir),
        schedule=schedule,
        prediction=prediction,
    )


def sampler(section: Mapping[str, Any]) -> Sampler:
    """The sampler that a section such as `config.sampler` names."""
    return look_up(SAMPLERS, section["name"], "sampler.name")


def sampling_plan(
    section: Mapping[str, Any], schedule: Schedule, *, strength: float = 1.0
) -> Plan:
    """The steps that a section such as `config.sampler` describes, padded to a bucket.

    `strength` below 1 leaves out the noisiest steps, for image-to-image.

    Raises:
      ValueError: for an option that does not fit the sampler, or is out of range.
    """
    fields = {k: frozen_value(v) for k, v in section.items()}
    name, num_steps, grid, final = map(fields.pop, LEVEL_FIELDS)
    options = {k: v for k, v in fields.items() if k not in GUIDANCE_FIELDS}
    chosen = sampler(section)
    known = inspect.signature(chosen.rows).parameters
    for option in options:
        if option not in known:
            takes = ", ".join(list(known)[1:]) or "no options"
            raise ValueError(
                f"the sampler {name!r} has no {option}: it takes {takes}; leave it out "
                "or choose another sampler"
            )
    levels = make_levels(schedule, num_steps, grid=grid, final=final)
    plan = chosen.plan(from_strength(levels, strength), **options)
    return pad(plan, bucket(plan.num_rows))


def guidance(section: Mapping[str, Any]) -> Guidance | None:
    """The guidance of a section such as `config.sampler`; None at scale 1."""
    scale = section["guidance_scale"]
    if scale == 1.0:
        return None
    low, high = section["guidance_interval"]
    return Guidance(scale, section["guidance_rescale"], (low, high))


def optimizers(
    config: ConfigDict, task: Task
) -> dict[str, optax.GradientTransformation]:
    """One optimizer, all with the same settings, for each objective."""
    section = dict(config.optimizer)
    rate = from_table(
        RATE_SCHEDULES,
        section.pop("schedule"),
        "optimizer.schedule",
        learning_rate=config.train.learning_rate,
    )
    optimizer = from_table(OPTIMIZERS, section, "optimizer", learning_rate=rate)
    return {name: optimizer for name in task.objectives}


def average(config: ConfigDict, task: Task) -> Ema | None:
    """The EMA of the model: of all but what only a loss uses; None if `ema_decay` is 0."""
    if config.train.ema_decay == 0:
        return None
    trained = [group for o in task.objectives.values() for group in o.trains]
    groups = tuple(group for group in trained if group not in LOSS_GROUPS)
    return ema(ramp(config.train.ema_decay), groups)


def lpips_shapes() -> PyTree:
    """Shapes of the LPIPS parameters, weights or no weights at hand."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        param_shapes(),
        is_leaf=lambda x: isinstance(x, tuple),
    )


def example_batch(
    config: ConfigDict, batch_size: int, conditioner: Any = None
) -> dict[str, Any]:
    """Shapes of a batch of pictures, with the fields that a conditioner reads."""
    size = config.data.image_size
    latent_size = size // 2 ** (len(config.autoencoder.ch_mult) - 1)
    image = jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.float32)
    read = build_conditioner.example_fields(conditioner, batch_size, size, latent_size)
    return {"image": image, **read}


def _autoencoding(config: ConfigDict) -> Experiment:
    module = autoencoder(config)
    section = dict(config.loss)
    section.pop("perceptual_weights_path")
    regularizer_weight = section.pop("regularizer_weight")
    adversarial = dict(config.adversarial)
    has_discriminator = look_up(
        {"patchgan": True, "none": False}, adversarial.pop("name"), "adversarial.name"
    )
    network = {k: adversarial.pop(k) for k in ("ndf", "num_layers")}
    discriminator = PatchDiscriminator(**network, dtype=_dtype(config))
    spec = Autoencoding(
        autoencoder=module,
        reconstruction=call(
            ReconstructionLoss, section, "loss", perceptual_dtype=_dtype(config)
        ),
        regularizer_weight=regularizer_weight,
        discriminator=discriminator if has_discriminator else None,
        adversarial=call(AdversarialLoss, adversarial, "adversarial")
        if has_discriminator
        else None,
    )

    def init(key: jax.Array) -> tuple[dict, dict]:
        keys = named_keys(key, "autoencoder", "posterior", "discriminator")
        image = jnp.zeros(example_batch(config, 1)["image"].shape)
        variables = module.init(keys["autoencoder"], image, keys["posterior"])
        start = look_up(INITS, config.train.init, "train.init")
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


def _denoising(config: ConfigDict, workdir: Path | None) -> Experiment:
    ldm = latent_diffusion(config, workdir)
    loss = build_diffusion.denoising_loss(config.diffusion, ldm)

    def init(key: jax.Array) -> tuple[dict, dict]:
        shapes = example_batch(config, 1, ldm.conditioner)
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        scale = jnp.float32(config.latent.scale)
        start = look_up(INITS, config.train.init, "train.init")
        params = ldm.init_params(key, batch)
        params["backbone"] = start(params["backbone"])
        params |= loss.init_params()
        return params, {"latent_scale": scale, **loss.init_collections()}

    trains = None if build_conditioner.is_trained(config) else ("backbone",)
    task = denoising_task(loss, trains)
    return Experiment(task, init, loss.evaluate, ldm.autoencoder, ldm)


def _dtype(config: ConfigDict) -> Any:
    return jnp.dtype(config.train.precision)
