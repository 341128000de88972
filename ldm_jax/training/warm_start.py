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


def read(target: TrainState, workdir: str | Path, step: int) -> dict[str, PyTree]:
    """What a checkpoint holds of a state: groups of its items, on devices.

    Args:
      target: shapes, dtypes and shardings of the whole state.

    Raises:
      CheckpointError: if it is damaged, or belongs to another model: the message names
        the first parameter that differs.
    """
    return {
        item: _read_item(getattr(target, item) or {}, workdir, step, item)
        for item in ("params", "ema", "collections")
    }


def filled(state: TrainState, stored: dict[str, PyTree], step: int) -> TrainState:
    """A fresh state with all that was read put into it; pure, for `jax.jit`.

    What the checkpoint lacked stays fresh (the optimizer's state, a discriminator), but
    for averages of parameters that it held: they start from these.
    """
    params = {**state.params, **stored["params"]}
    ema = state.ema
    if ema is not None:
        # A copy: params and averages are updated in place, each its own.
        started = {
            name: jax.tree.map(lambda x: jnp.array(x, jnp.float32), params[name])
            for name in ema
        }
        ema = {**started, **stored["ema"]}
    return dataclasses.replace(
        state,
        step=jnp.int32(step),
        params=params,
        ema=ema,
        collections={**state.collections, **stored["collections"]},
    )


def _read_item(
    target: dict[str, PyTree], workdir: str | Path, step: int, item: str
) -> dict[str, PyTree]:
    """The groups of an item that are both stored and wanted."""
    stored = streaming.open_item(workdir, item, step=step)
    if item == "ema":  # a run may keep fewer averages than the file had
        stored = {name: tree for name, tree in stored.items() if name in target}
    shared = {name: tree for name, tree in target.items() if name in stored}
    directory = checkpoints.checkpoint_dir(workdir)
    checkpoints.check_matches(shared, stored, item, directory, step)
    leaves = trees.flatten(stored)
    return trees.map_with_name(
        lambda name, leaf: jax.device_put(read_array(leaves[name]), leaf.sharding),
        shared,
    )
