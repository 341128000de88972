"""Checkpoints of a run, `workdir/checkpoints/<step>/`, written by orbax in the background.

Every part of the state is an item of its own (`params`, `ema`, `opt_state`,
`collections`), beside a JSON `meta`, so that a sampler or the next stage reads only
what it needs. A half-written checkpoint is never listed and is cleared at the next start;
a damaged one is never read (`checkpoint_files`, `checksums`).
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ldm_jax.training.checkpoint_files import (
    CheckpointError,
    DiskFullError,
    all_steps,
    check_free_space,
    check_intact,
    checkpoint_dir,
    item_shapes,
    resolve_step,
    unreadable,
)
from ldm_jax.training.checkpoint_writer import ITEMS, CheckpointWriter
from ldm_jax.training.state import TrainState
from ldm_jax.trees import flatten

__all__ = [
    "ITEMS",
    "CheckpointError",
    "CheckpointWriter",
    "DiskFullError",
    "all_steps",
    "check_free_space",
    "check_intact",
    "check_matches",
    "checkpoint_dir",
    "item_shapes",
    "load_item",
    "load_meta",
    "load_params",
    "open_checkpoints",
    "resolve_step",
    "restore_state",
    "save",
    "save_if_possible",
    "unreadable",
    "wait",
]

PyTree = Any
Manager = CheckpointWriter

logger = logging.getLogger(__name__)


def open_checkpoints(workdir: str | Path, *, max_to_keep: int | None = 3) -> Manager:
    """The writer of a run's checkpoints, which keeps the newest `max_to_keep`.

    Clears what a killed run left half-written. Use it as a context manager, or call
    `close()`: both wait for the last save.
    """
    return CheckpointWriter(checkpoint_dir(workdir), max_to_keep=max_to_keep)


def save(
    manager: Manager,
    state: TrainState,
    meta: Mapping[str, Any] | None = None,
) -> bool:
    """Start writing `state` as the checkpoint of its step; returns before it is on disk.

    Args:
      meta: what JSON can hold: the position of the data, a hash of the config. The step
        is added.

    Returns:
      False if there is a checkpoint of this step already (it is left as it is).

    Raises:
      DiskFullError: if there is no room for it.
      CheckpointError: if it cannot be written.
    """
    return manager.save(state, meta)


def save_if_possible(
    manager: Manager,
    state: TrainState,
    meta: Mapping[str, Any] | None = None,
) -> bool:
    """The same for a run that goes on anyway: no room is a warning, not an error."""
    try:
        return manager.save(state, meta)
    except DiskFullError as error:
        if jax.process_index() == 0:
            logger.warning(
                "WARNING: %s; training goes on, and tries again at the next checkpoint",
                error,
            )
        return False


def wait(manager: Manager) -> None:
    """Block until the last save is on disk.

    Raises:
      CheckpointError: if it failed; the older checkpoints are untouched.
    """
    manager.wait()


def restore_state(
    manager: Manager, target: TrainState, *, step: int | None = None
) -> tuple[TrainState, dict[str, Any]]:
    """Read a whole state into the given layout.

    Args:
      target: shapes, dtypes and shardings, as `with_shardings(jax.eval_shape(...), ...)`
        gives; any device count will do, whichever wrote the checkpoint.
      step: if None, the newest that is intact (`Manager.newest_intact`).

    Returns:
      The state and its meta.

    Raises:
      FileNotFoundError: if there is no such checkpoint.
      CheckpointError: if it is damaged, or belongs to another model: the message names
        the first parameter that differs.
    """
    directory = manager.directory
    if step is None:
        step = manager.newest_intact()
        step = resolve_step(directory, step)
    else:
        step = resolve_step(directory, step)
        check_intact(directory, step)
    trees = {name: getattr(target, name) for name in ITEMS}
    trees = {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)}
    for name, tree in trees.items():
        check_matches(
            tree, _stored_shapes(directory, step, name), name, directory, step
        )
    args = {name: ocp.args.StandardRestore(tree) for name, tree in trees.items()}
    composite = ocp.args.Composite(**args, meta=ocp.args.JsonRestore())
    try:
        restored = manager.restore(step, composite)
    except Exception as error:
        raise unreadable(directory, step, error) from error
    # A copy into fresh buffers: the state is donated to the first step.
    counter = jax.device_put(jnp.array(step, jnp.int32), target.step.sharding)
    parts = {name: restored[name] for name in trees}
    return dataclasses.replace(target, step=counter, **parts), dict(restored["meta"])


def load_params(
    workdir: str | Path,
    *,
    item: str = "ema",
    step: int | None = None,
    groups: tuple[str, ...] | None = None,
) -> dict[str, PyTree]:
    """Parameters by group as numpy arrays: for sampling, or as a frozen first stage.

    Args:
      item: "params" for the raw parameters; "ema" for the averaged ones, completed by
        the raw ones of the groups that are not averaged. No group is read twice.
      groups: top-level groups to read, of those there are; None for all.

    Raises:
      FileNotFoundError: if there is no checkpoint, or none of that step.
      CheckpointError: if it is damaged.
    """
    if item not in ("params", "ema"):
        raise ValueError(f'item is "params" or "ema", not {item!r}')
    average = {}
    if item == "ema":
        average = load_item(workdir, "ema", step=step, groups=groups)
    directory = checkpoint_dir(workdir)
    there = item_shapes(directory, resolve_step(directory, step), "params")
    wanted = there.keys() if groups is None else there.keys() & set(groups)
    raw = tuple(wanted - average.keys())
    return load_item(workdir, "params", step=step, groups=raw) | average


def load_item(
    workdir: str | Path,
    item: str,
    *,
    step: int | None = None,
    groups: tuple[str, ...] | None = None,
) -> dict[str, PyTree]:
    """One item of a checkpoint as numpy arrays, `{}` if the run has none ("ema", say).

    Args:
      groups: top-level groups to read, of those there are; None for all.

    Raises:
      FileNotFoundError: if there is no checkpoint, or none of that step.
      CheckpointError: if it is damaged.
    """
    directory = checkpoint_dir(workdir)
    step = resolve_step(directory, step)
    path = directory / str(step) / item
    check_intact(directory, step, (item,))
    if not path.exists() and item != "params":
        return {}
    shapes = item_shapes(directory, step, item)
    if groups is not None:
        shapes = {name: tree for name, tree in shapes.items() if name in groups}
    if not jax.tree.leaves(shapes):
        return {}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    chosen = ocp.args.PyTreeRestore(
        item=shapes, restore_args=as_numpy, partial_restore=True
    )
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return reader.restore(path, chosen)
    except Exception as error:
        raise unreadable(directory, step, error) from error


def load_meta(workdir: str | Path, *, step: int | None = None) -> dict[str, Any]:
    """The JSON that was saved with a checkpoint.

    Raises:
      FileNotFoundError: if there is no checkpoint, or none of that step.
      CheckpointError: if it is damaged.
    """
    directory = checkpoint_dir(workdir)
    step = resolve_step(directory, step)
    check_intact(directory, step, ("meta",))
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            return reader.restore(directory / str(step) / "meta")
    except Exception as error:
        raise unreadable(directory, step, error) from error


def _stored_shapes(directory: Path, step: int, item: str) -> PyTree:
    """Shapes of an item, `{}` for one that a run may not have: no EMA, no collections."""
    is_optional = item in ("ema", "collections")
    if is_optional and not (directory / str(step) / item).exists():
        return {}
    return item_shapes(directory, step, item)


def check_matches(
    target: PyTree, stored: PyTree, item: str, directory: Path, step: int
) -> None:
    """Compare the leaves of an item with those on disk; orbax would cast them silently.

    Raises:
      CheckpointError: names the first leaf that differs.
    """
    wanted, found = flatten(target), flatten(stored)
    where = f"the checkpoint of step {step} in {directory}"
    advice = "use the config that it was trained with, or another workdir"
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            raise CheckpointError(f"{where} lacks {item}/{name}: {advice}")
        if name not in wanted:
            raise CheckpointError(
                f"{where} holds {item}/{name}, which this model lacks: {advice}"
            )
        want, have = wanted[name], found[name]
        if want.shape != have.shape or want.dtype != have.dtype:
            raise CheckpointError(
                f"{where} holds {item}/{name} as {_form(have)}, but this model has "
                f"{_form(want)}: {advice}"
            )


def _form(leaf: Any) -> str:
    return f"{jnp.dtype(leaf.dtype).name}{list(leaf.shape)}"
