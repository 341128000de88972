"""What a run will do and need, worked out from shapes alone: `train.py --dry_run`."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

from typing import Any

import jax
import jax.numpy as jnp
from clu import parameter_overview
from ml_collections import ConfigDict

from ldm_jax import build, run, trees
from ldm_jax.training import sharding
from ldm_jax.training.task import Task

PyTree = Any

ACTIVATIONS = "activations kept for the gradient"
_FROZEN_ROLES = {"autoencoder": "first stage", "lpips": "LPIPS"}


def describe(config: ConfigDict) -> str:
    """Resolved config, parameter table, FLOPs, memory and shardings as text.

    Needs neither pictures nor checkpoints, and allocates nothing.

    Raises:
      ValueError: one sentence if the config cannot be built on these devices.
    """
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    sharding.check_batch_size(
        config.train.batch_size, mesh, config.train.grad_accumulation
    )
    experiment = build.experiment(config)
    state = jax.eval_shape(run.create_fn(config, experiment), jax.random.key(0))
    shardings = sharding.infer_shardings(state, mesh)
    frozen = frozen_shapes(config, experiment)
    conditioner = experiment.ldm.conditioner if experiment.ldm else None
    batch = build.example_batch(config, config.train.batch_size, conditioner)
    step = run.step_fn(config, experiment, jax.random.key(0))
    analysis = jax.jit(step).lower(state, frozen, batch).cost_analysis() or {}
    flops = analysis.get("flops", 0.0)
    sections = {
        "config": str(config),
        "parameters": parameter_overview.get_parameter_overview(
            state.params, include_stats=False
        ),
        "summary": _table(
            [
                *_parameter_rows(experiment.task, state, frozen),
                *_flop_rows(config, flops),
                *_memory_rows(config, experiment, state, shardings, frozen, batch),
                *_sharding_rows(mesh, state, shardings),
            ]
        ),
    }
    return "\n\n".join(f"== {name} ==\n{text}" for name, text in sections.items())


def frozen_shapes(config: ConfigDict, experiment: build.Experiment) -> PyTree:
    """What `pretrained.frozen` reads, as shapes."""
    if config.task == "denoising":
        module = experiment.autoencoder
        image = build.example_batch(config, 1)["image"]
        key = jax.random.key(0)
        variables = jax.eval_shape(module.init, key, image, key)
        return {"autoencoder": variables["params"]}
    if config.loss.perceptual_weight == 0:
        return {}
    return {"lpips": build.lpips_shapes()}


def _parameter_rows(task: Task, state: Any, frozen: PyTree) -> list[tuple[str, str]]:
    trained = {group for o in task.objectives.values() for group in o.trains}
    rows = [
        (
            f"{'trained' if group in trained else 'frozen'}: {_role(group)}",
            f"{trees.num_elements(tree):,} parameters",
        )
        for group, tree in state.params.items()
    ]
    return rows + [
        (f"frozen: {_FROZEN_ROLES[group]}", f"{trees.num_elements(tree):,} parameters")
        for group, tree in frozen.items()
    ]


def _role(group: str) -> str:
    return "denoiser" if group == "backbone" else group


def _flop_rows(config: ConfigDict, flops: float) -> list[tuple[str, str]]:
    # XLA counts the body of the micro-batch loop once.
    total = flops * config.train.grad_accumulation
    per_image = total / config.train.batch_size
    return [
        ("FLOPs of a step", f"{total / 1e12:,.3f} TFLOP"),
        ("FLOPs of a picture", f"{per_image / 1e12:,.4f} TFLOP"),
        ("FLOPs of the run", f"{total * config.train.num_steps / 1e18:,.3f} EFLOP"),
    ]


def memory(config: ConfigDict) -> dict[str, int]:
    """Bytes that a step needs on each device, by what for; `ACTIVATIONS` is one of them.

    Raises:
      ValueError: one sentence if the config cannot be built on these devices.
    """
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    experiment = build.experiment(config)
    state = jax.eval_shape(run.create_fn(config, experiment), jax.random.key(0))
    shardings = sharding.infer_shardings(state, mesh)
    conditioner = experiment.ldm.conditioner if experiment.ldm else None
    batch = build.example_batch(config, config.train.batch_size, conditioner)
    frozen = frozen_shapes(config, experiment)
    return _memory_parts(config, experiment, state, shardings, frozen, batch)


def _memory_rows(*described: Any) -> list[tuple[str, str]]:
    parts = _memory_parts(*described)
    rows = [(f"memory: {name}", _mib(size)) for name, size in parts.items()]
    return [*rows, ("memory: sum for each device", _mib(sum(parts.values())))]


def _memory_parts(
    config: ConfigDict,
    experiment: build.Experiment,
    state: Any,
    shardings: PyTree,
    frozen: PyTree,
    batch: PyTree,
) -> dict[str, int]:
    kept = _residual_bytes(config, experiment, state, frozen, batch)
    return {
        "parameters": _device_bytes(state.params, shardings.params),
        "EMA": _device_bytes(state.ema, shardings.ema),
        "optimizer": _device_bytes(state.opt_state, shardings.opt_state),
        "gradients": _device_bytes(state.params, shardings.params),
        "frozen networks": trees.num_bytes(frozen),
        ACTIVATIONS: kept // len(jax.devices()),
    }


def _residual_bytes(config, experiment, state, frozen, batch) -> int:
    """Bytes that the first objective's backward pass keeps, before XLA's fusions."""
    objective = next(iter(experiment.task.objectives.values()))
    trained, fixed = trees.select(state.params, objective.trains)
    micro = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            (x.shape[0] // config.train.grad_accumulation, *x.shape[1:]), x.dtype
        ),
        batch,
    )

    def residuals(trained, fixed, collections, frozen, micro, step):
        def loss(trained):
            params = {**fixed, **trained}
            key = jax.random.key(0)
            return objective.loss(params, collections, frozen, micro, step, key)

        return jax.vjp(loss, trained, has_aux=True)[1]

    step = jax.ShapeDtypeStruct((), jnp.int32)
    kept = jax.eval_shape(
        residuals, trained, fixed, state.collections, frozen, micro, step
    )
    arguments = trees.num_bytes(trained)
    return max(trees.num_bytes(jax.tree.leaves(kept)) - arguments, 0)


def _device_bytes(tree: PyTree, shardings: PyTree) -> int:
    """Bytes on one device under the given shardings."""
    sizes = jax.tree.map(
        lambda x, s: trees.num_bytes(
            jax.ShapeDtypeStruct(s.shard_shape(x.shape), x.dtype)
        ),
        tree,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))


def _sharding_rows(mesh: Any, state: Any, shardings: PyTree) -> list[tuple[str, str]]:
    split = [
        leaf.size
        for leaf, s in zip(
            jax.tree.leaves(state.params),
            jax.tree.leaves(shardings.params),
            strict=True,
        )
        if not s.is_fully_replicated
    ]
    share = sum(split) / max(trees.num_elements(state.params), 1)
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    return [
        ("mesh", f"{axes} on {mesh.devices.flat[0].device_kind}"),
        ("parameters split over fsdp", f"{share:.1%} ({len(split)} arrays)"),
    ]


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
