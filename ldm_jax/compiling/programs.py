"""The programs that a run compiles, lowered for devices that may not exist.

They are those of `run.train` and of `Model.sample`: same functions, shardings and donated
arguments, from shapes alone. `config.train.batch_size` is the number of pictures.
"""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ldm_jax import build, run
from ldm_jax.latent_diffusion import LatentDiffusion
from ldm_jax.model import MAX_BATCH_PER_DEVICE
from ldm_jax.plan import frozen_shapes
from ldm_jax.rng import example_keys
from ldm_jax.sample_fn import make_sample_fn
from ldm_jax.training import sharding
from ldm_jax.training.guarded_step import new_tally

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Program:
    """One call of a jitted function, not yet compiled.

    Attributes:
      name: "train" or "sample".
      traced: what is lowered and compiled.
      batch_size: pictures a call, over all devices.
      arguments: what the device holds before the call, by role: trees of shapes with
        shardings, some of them not passed to the function.
      unused: roles that the function is not given, but which stay on the device.
    """

    name: str
    traced: Any  # jax.stages.Traced
    batch_size: int
    arguments: Mapping[str, PyTree]
    unused: tuple[str, ...] = ()


def program(
    name: str, config: ConfigDict, devices: Sequence[Any], *, latents: str = "encoded"
) -> Program:
    """`train_program` or `sample_program`, on the mesh of the config.

    Raises:
      ValueError: see these two.
    """
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices=devices)
    if name == "sample":
        return sample_program(config, mesh)
    return train_program(config, mesh, latents=latents)


def train_program(
    config: ConfigDict, mesh: jax.sharding.Mesh, *, latents: str = "encoded"
) -> Program:
    """The optimizer step of `run.train`, of either stage.

    Args:
      latents: "encoded" from pictures in every step, or "cached": the step is given
        moments, as from step 0 on with `config.latent.cache`.

    Raises:
      ValueError: if the config cannot be built, or the batch not be laid out.
    """
    batch_size = config.train.batch_size
    sharding.check_batch_size(batch_size, mesh, config.train.grad_accumulation)
    experiment = build.experiment(config)
    key = jax.random.key(config.train.seed)
    state = jax.eval_shape(run.create_fn(config, experiment), key)
    shardings = sharding.infer_shardings(state, mesh)
    state = sharding.with_shardings(state, shardings)
    frozen = _whole(frozen_shapes(config, experiment), mesh)
    conditioner = experiment.ldm.conditioner if experiment.ldm else None
    batch = build.example_batch(config, batch_size, conditioner)
    if latents == "cached":
        batch |= {"moments": _moments(config, experiment.ldm, batch.pop("image"))}
    batch = _batch_laid_out(batch, mesh)
    step = run.jit_step(config, experiment, key, shardings, mesh)
    arguments = {
        "parameters": state.params,
        "optimizer": state.opt_state,
        "EMA": state.ema,
        "rest of the state": (state.step, state.collections),
        "frozen networks": frozen,
        "batch": batch,
    }
    passed, unused = frozen, ()
    if latents == "cached":  # previews and validation still need the first stage
        passed, unused = {}, ("frozen networks",)
    tally = _whole(new_tally(), mesh)
    traced = step.trace(state, passed, batch, tally)
    return Program("train", traced, batch_size, arguments, unused)


def sample_program(config: ConfigDict, mesh: jax.sharding.Mesh) -> Program:
    """What `Model.sample` runs for `config.train.batch_size` pictures, decoder included.

    Raises:
      ValueError: for a first stage, which draws nothing.
    """
    if config.task != "denoising":
        raise ValueError(
            "a first stage draws no samples: give the config of a latent diffusion model, "
            "or --program=train"
        )
    batch_size = config.train.batch_size
    sharding.check_batch_size(batch_size, mesh)
    experiment = build.experiment(config)
    ldm = experiment.ldm
    key = jax.random.key(0)
    state = jax.eval_shape(run.create_fn(config, experiment), key)
    trained = {
        **state.params,
        "latent_scale": state.collections["latent_scale"],
    }
    batch = build.example_batch(config, batch_size, ldm.conditioner)
    _, h, w, _ = ldm.latent_shape(batch)
    keys = jax.eval_shape(example_keys, key, jnp.arange(batch_size))
    conditioning = {name: x for name, x in batch.items() if name != "image"}
    frozen = _whole(frozen_shapes(config, experiment), mesh)
    params = {**frozen, **_laid_out(trained, mesh)}
    inputs = _batch_laid_out({"key": keys, "conditioning": conditioning}, mesh)
    draw = make_sample_fn(
        ldm,
        build.sampler(config.sampler),
        batch_size=batch_size,
        latent_size=(h, w),
        decode_chunk_size=MAX_BATCH_PER_DEVICE,
    )
    plan = build.sampling_plan(config.sampler, ldm.schedule)
    # Without the idle rows, which would count as steps.
    rows = jax.tree.map(lambda table: table[: int(plan.num_steps)], plan.rows)
    traced = jax.jit(sharding.on_mesh(draw, mesh)).trace(
        params,
        plan=dataclasses.replace(plan, rows=rows),
        guidance=None if ldm.conditioner is None else build.guidance(config.sampler),
        **inputs,
    )
    return Program(
        "sample",
        traced,
        batch_size,
        {"parameters": params, "batch": inputs["conditioning"]},
    )


def _moments(config: ConfigDict, ldm: LatentDiffusion | None, image: Any) -> Any:
    """The shape of what the latent cache holds of pictures."""
    if ldm is None:
        raise ValueError(
            "a first stage has no cached latents: leave --latents out, or give the config "
            "of a latent diffusion model"
        )
    b, h, w, c = ldm.latent_shape({"image": image})
    channels = c * ldm.autoencoder.moments_per_channel
    return jax.ShapeDtypeStruct((b, h, w, channels), jnp.float32)


def _laid_out(shapes: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    return sharding.with_shardings(shapes, sharding.infer_shardings(shapes, mesh))


def _whole(shapes: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    place = sharding.replicated(mesh)
    return sharding.with_shardings(shapes, jax.tree.map(lambda _: place, shapes))


def _batch_laid_out(batch: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    place = sharding.batch_sharding(mesh)
    return sharding.with_shardings(batch, jax.tree.map(lambda _: place, batch))
