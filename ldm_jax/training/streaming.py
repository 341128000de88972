"""Checkpoints larger than memory: written and read one array after the other.

The files are those of `training.checkpoints`, which copies what it writes (orbax keeps
two copies of every numpy array until the save is done). Here leaves are `LazyArray`s, and
at most a batch of them is in memory.
"""

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import type_handlers

from ldm_jax import trees
from ldm_jax.lazy_array import LazyArray, read_array
from ldm_jax.training import checkpoints

PyTree = Any

# Arrays are written in batches of about so many bytes; smaller ones are read at once.
BATCH_BYTES = 2**27
SMALL_BYTES = 2**18


def write_checkpoint(
    workdir: str | Path,
    step: int,
    items: Mapping[str, PyTree],
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint of `step` as `training.checkpoints.save` would.

    Args:
      workdir: of the run; made if missing.
      items: trees of `LazyArray`s (or numpy arrays) by item: "params", "ema", ...; empty
        ones are left out.
      meta: what JSON can hold; the step is added.

    Raises:
      CheckpointError: if the disk is too full for it.
    """
    items = {
        name: jax.tree.map(_as_lazy, tree)
        for name, tree in items.items()
        if jax.tree.leaves(tree)
    }
    directory = checkpoints.checkpoint_dir(workdir)
    directory.mkdir(parents=True, exist_ok=True)
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(items))
    checkpoints.check_free_space(directory, num_bytes, step)
    handler = ocp.PyTreeCheckpointHandler(
        type_handler_registry=type_handlers.create_type_handler_registry(
            (LazyArray, _LazyHandler()),
            (jax.Array, type_handlers.ArrayHandler()),  # or orbax warns
        )
    )
    options = ocp.CheckpointManagerOptions(
        create=True, enable_async_checkpointing=False
    )
    handlers = {name: handler for name in items} | {"meta": ocp.JsonCheckpointHandler()}
    args = {name: ocp.args.PyTreeSave(tree) for name, tree in items.items()}
    meta = {**(meta or {}), "step": step}
    with ocp.CheckpointManager(
        directory, options=options, item_handlers=handlers
    ) as manager:
        composite = ocp.args.Composite(**args, meta=ocp.args.JsonSave(meta))
        manager.save(step, args=composite)


def open_item(workdir: str | Path, item: str, *, step: int | None = None) -> PyTree:
    """The tree of an item, `{}` if the run has none; large arrays are `LazyArray`s.

    Raises:
      FileNotFoundError: if there is no checkpoint, or none of that step.
      CheckpointError: if it is damaged; large arrays are met only when they are read.
    """
    directory = checkpoints.checkpoint_dir(workdir)
    step = checkpoints.resolve_step(directory, step)
    if not (directory / str(step) / item).exists():
        return {}
    flat = trees.flatten(checkpoints.item_shapes(directory, step, item))
    restore = functools.partial(_restore, directory, step, item, tuple(flat))
    small = [name for name, leaf in flat.items() if trees.num_bytes(leaf) < SMALL_BYTES]
    leaves: dict[str, Any] = {**restore(small)} if small else {}
    for name, leaf in flat.items():
        if name not in leaves:
            read = functools.partial(_only, restore, name)
            leaves[name] = LazyArray(tuple(leaf.shape), np.dtype(leaf.dtype), read)
    return trees.unflatten({name: leaves[name] for name in flat})


class _LazyHandler(type_handlers.NumpyHandler):
    """Stores `LazyArray`s as numpy arrays, a batch at a time."""

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)

    async def serialize(self, values: Any, infos, args=None):
        args = args or [ocp.SaveArgs()] * len(values)
        for batch in _batches(values):
            futures = await super().serialize(
                [values[i].read() for i in batch],
                [infos[i] for i in batch],
                [args[i] for i in batch],
            )
            for future in futures:
                await asyncio.to_thread(future.result)
        return []


def _batches(values: Sequence[LazyArray]) -> list[list[int]]:
    batches, size = [[]], 0
    for index, value in enumerate(values):
        if size + value.nbytes > BATCH_BYTES and batches[-1]:
            batches.append([])
            size = 0
        batches[-1].append(index)
        size += value.nbytes
    return batches


def _as_lazy(leaf: Any) -> LazyArray:
    if isinstance(leaf, LazyArray):
        return leaf
    array = read_array(leaf)
    return LazyArray(array.shape, array.dtype, lambda: array)


def _only(restore: Callable[[list[str]], dict[str, np.ndarray]], name: str):
    return restore([name])[name]


def _restore(
    directory: Path, step: int, item: str, names: Sequence[str], wanted: Sequence[str]
) -> dict[str, np.ndarray]:
    """The arrays `wanted` of an item, whose names are all given."""
    chosen = set(wanted)
    tree = {name: 0 if name in chosen else ocp.PLACEHOLDER for name in names}
    args = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
    restore = ocp.args.PyTreeRestore(
        item=trees.unflatten(tree), restore_args=trees.unflatten(args)
    )
    path = epath.Path(directory / str(step) / item)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            flat = trees.flatten(reader.restore(path, restore))
    except Exception as error:
        raise checkpoints.unreadable(directory, step, error) from error
    return {name: np.asarray(flat[name]) for name in wanted}
