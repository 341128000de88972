"""Training that goes on from parameters without an optimizer's state: imported ones."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ldm_jax import trees
from ldm_jax.lazy_array import read_array
from ldm_jax.training import checkpoints, streaming
from ldm_jax.training.state import TrainState

PyTree = Any


def has_optimizer_state(workdir: str | Path, step: int) -> bool:
    """Whether the checkpoint of `step` is one to resume from, every bit of it."""
    return (checkpoints.checkpoint_dir(workdir) / str(step) / "opt_state").exists()


def start_from(state: TrainState, workdir: str | Path, step: int) -> TrainState:
    """A fresh state with all that the checkpoint of `step` holds put into it.

    What it lacks stays fresh (the optimizer's state, a discriminator), but for averages
    of parameters that it does hold: they start from these.

    Args:
      state: on devices; its layout is kept.

    Raises:
      CheckpointError: if it is damaged, or belongs to another model: the message names
        the first parameter that differs.
    """
    params = _filled(state.params, workdir, step, "params")
    ema = state.ema
    if ema is not None:
        started = {
            name: jax.tree.map(_as, params[name], tree) for name, tree in ema.items()
        }
        ema = _filled(started, workdir, step, "ema")
    collections = _filled(state.collections, workdir, step, "collections")
    counter = jax.device_put(jnp.array(step, jnp.int32), state.step.sharding)
    return dataclasses.replace(
        state, step=counter, params=params, ema=ema, collections=collections
    )


def _filled(
    fresh: dict[str, PyTree], workdir: str | Path, step: int, item: str
) -> dict[str, PyTree]:
    """`fresh` with the groups that a checkpoint has of an item."""
    stored = streaming.open_item(workdir, item, step=step)
    if item == "ema":  # a run may keep fewer averages than the file had
        stored = {name: tree for name, tree in stored.items() if name in fresh}
    shared = {name: tree for name, tree in fresh.items() if name in stored}
    directory = checkpoints.checkpoint_dir(workdir)
    checkpoints.check_matches(shared, stored, item, directory, step)
    leaves = trees.flatten(stored)
    read = trees.map_with_name(
        lambda name, leaf: jax.device_put(read_array(leaves[name]), leaf.sharding),
        shared,
    )
    return {**fresh, **read}


def _as(value: jax.Array, like: jax.Array) -> jax.Array:
    """A copy in fresh buffers: the state is donated to the first step."""
    return jax.device_put(jnp.array(value, like.dtype), like.sharding)
