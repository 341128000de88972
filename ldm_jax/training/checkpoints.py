"""Checkpoints of a run, `workdir/checkpoints/<step>/`, written by orbax in the background.

Every part of the state is an item of its own (`params`, `ema`, `opt_state`,
`collections`), beside a JSON `meta`, so that a sampler or the next stage reads only
what it needs. A half-written checkpoint is never listed and is cleared at the next start.
"""

import dataclasses
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from ldm_jax.training.state import TrainState
from ldm_jax.trees import flatten, num_bytes

PyTree = Any
Manager = ocp.CheckpointManager

ITEMS = ("params", "ema", "opt_state", "collections")
RESERVE_BYTES = 2**24


class CheckpointError(ValueError):
    """A checkpoint cannot be written, read, or used for this model."""


def checkpoint_dir(workdir: str | Path) -> Path:
    """Where a run keeps its checkpoints."""
    return Path(workdir).absolute() / "checkpoints"


def open_checkpoints(workdir: str | Path, *, max_to_keep: int | None = 3) -> Manager:
    """The writer of a run's checkpoints, which keeps the newest `max_to_keep`.

    Clears what a killed run left half-written. Use it as a context manager, or call
    `close()`: both wait for the last save.
    """
    directory = checkpoint_dir(workdir)
    # Not orbax's own option, which cleans in the background: the space must be there
    # when the first save asks for it.
    if jax.process_index() == 0:
        for leftover in directory.glob("*.orbax-checkpoint-tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
    options = ocp.CheckpointManagerOptions(max_to_keep=max_to_keep, create=True)
    return ocp.CheckpointManager(directory, options=options)


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
      CheckpointError: if the disk is too full, or an earlier save failed.
    """
    step = int(state.step)
    if step in manager.all_steps():
        return False
    items = {name: getattr(state, name) for name in ITEMS}
    items = {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}
    check_free_space(Path(manager.directory), num_bytes(items), step)
    args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    meta = {**(meta or {}), "step": step}
    try:
        return manager.save(
            step, args=ocp.args.Composite(**args, meta=ocp.args.JsonSave(meta))
        )
    except Exception as error:
        raise _not_written(manager.directory, error) from error


def wait(manager: Manager) -> None:
    """Block until the last save is on disk.

    Raises:
      CheckpointError: if it failed; the older checkpoints are untouched.
    """
    try:
        manager.wait_until_finished()
    except Exception as error:
        raise _not_written(manager.directory, error) from error


def check_free_space(directory: str | Path, num_bytes_needed: int, step: int) -> None:
    """Refuse a save that would fill the disk: orbax notices only when it is too late.

    Raises:
      CheckpointError: if fewer bytes are free than needed (and a small reserve).
    """
    free = shutil.disk_usage(directory).free
    if free < num_bytes_needed + RESERVE_BYTES:
        raise CheckpointError(
            f"the disk of {directory} has {free / 2**20:.0f} MiB free, but the checkpoint "
            f"of step {step} needs {(num_bytes_needed + RESERVE_BYTES) / 2**20:.0f} MiB: "
            f"free some space and run the same command again"
        )


def restore_state(
    manager: Manager, target: TrainState, *, step: int | None = None
) -> tuple[TrainState, dict[str, Any]]:
    """Read a whole state into the given layout.

    Args:
      target: shapes, dtypes and shardings, as `with_shardings(jax.eval_shape(...), ...)`
        gives; any device count will do, whichever wrote the checkpoint.
      step: the newest if None.

    Returns:
      The state and its meta.

    Raises:
      FileNotFoundError: if there is no such checkpoint.
      CheckpointError: if it is damaged, or belongs to another model: the message names
        the first parameter that differs.
    """
    directory = Path(manager.directory)
    step = resolve_step(directory, step)
    trees = {name: getattr(target, name) for name in ITEMS}
    trees = {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)}
    for name, tree in trees.items():
        check_matches(
            tree, _stored_shapes(directory, step, name), name, directory, step
        )
    args = {name: ocp.args.StandardRestore(tree) for name, tree in trees.items()}
    try:
        restored = manager.restore(
            step, args=ocp.args.Composite(**args, meta=ocp.args.JsonRestore())
        )
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
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            return reader.restore(directory / str(step) / "meta")
    except Exception as error:
        raise unreadable(directory, step, error) from error


def all_steps(workdir: str | Path) -> list[int]:
    """Steps that have a complete checkpoint, oldest first; empty for a new run."""
    return _steps_in(checkpoint_dir(workdir))


def _steps_in(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit())


def resolve_step(directory: Path, step: int | None) -> int:
    """`step`, or the newest in a folder of checkpoints.

    Raises:
      FileNotFoundError: if there is none.
    """
    steps = _steps_in(directory)
    if not steps:
        raise FileNotFoundError(
            f"no checkpoint in {directory}: train that model first, or correct the path"
        )
    if step is not None and step not in steps:
        raise FileNotFoundError(
            f"no checkpoint of step {step} in {directory}: there are {steps}"
        )
    return steps[-1] if step is None else step


def item_shapes(directory: Path, step: int, item: str) -> PyTree:
    """Shapes and dtypes of a stored item.

    Raises:
      CheckpointError: if it is damaged.
    """
    try:
        path = directory / str(step) / item
        metadata = ocp.PyTreeCheckpointHandler().metadata(epath.Path(path))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), metadata.tree
        )
    except Exception as error:
        raise unreadable(directory, step, error) from error


def _stored_shapes(directory: Path, step: int, item: str) -> PyTree:
    """The same, `{}` for an item that a run may not have: no EMA, no collections."""
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


def unreadable(directory: Path, step: int, error: Exception) -> CheckpointError:
    """The sentence for a checkpoint that orbax cannot read."""
    # orbax reads in parallel and abandons the other reads once one has failed; asyncio
    # would print a traceback for each of them at exit, burying the sentence below.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return CheckpointError(
        f"the checkpoint of step {step} in {directory} cannot be read "
        f"({reason[0][:200]}): delete the folder {directory / str(step)} to go on from "
        f"an older one, or put an intact copy in its place"
    )


def _not_written(directory: Any, error: Exception) -> CheckpointError:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return CheckpointError(
        f"a checkpoint could not be written to {directory} ({reason[0][:200]}): see to "
        f"the disk and run the same command again, the older checkpoints are intact"
    )
