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
from ldm_jax.training.checkpoint_files import SummedFolder, not_written

PyTree = Any

# Arrays are written and read in batches of about so many bytes; memory peaks at several
# times as much, for the store has copies of what is under way.
WRITE_BYTES = 2**27
READ_BYTES = 2**25


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
        create=True,
        enable_async_checkpointing=False,
        temporary_path_class=SummedFolder,
    )
    handlers = {name: handler for name in items} | {"meta": ocp.JsonCheckpointHandler()}
    args = {name: ocp.args.PyTreeSave(tree) for name, tree in items.items()}
    meta = {**(meta or {}), "step": step}
    composite = ocp.args.Composite(**args, meta=ocp.args.JsonSave(meta))
    with ocp.CheckpointManager(
        directory, options=options, item_handlers=handlers
    ) as manager:
        try:
            manager.save(step, args=composite)
        except OSError as error:
            raise not_written(directory, step, num_bytes, error) from error


def open_item(workdir: str | Path, item: str, *, step: int | None = None) -> PyTree:
    """The tree of an item as `LazyArray`s, `{}` if the run has none.

    The item's files are compared with their checksums first. Arrays are fetched in
    batches, of which the last is kept: read them in tree order.

    Raises:
      FileNotFoundError: if there is no checkpoint, or none of that step.
      CheckpointError: if it is damaged; some damage is met only when arrays are read.
    """
    directory = checkpoints.checkpoint_dir(workdir)
    step = checkpoints.resolve_step(directory, step)
    checkpoints.check_intact(directory, step, (item,))
    if not (directory / str(step) / item).exists():
        return {}
    flat = trees.flatten(checkpoints.item_shapes(directory, step, item))
    names = tuple(flat)
    batches = _batches([trees.num_bytes(leaf) for leaf in flat.values()], READ_BYTES)

    @functools.lru_cache(maxsize=1)
    def fetch(index: int) -> dict[str, np.ndarray]:
        wanted = [names[i] for i in batches[index]]
        return _restore(directory, step, item, names, wanted)

    leaves = {}
    for index, batch in enumerate(batches):
        for name in (names[i] for i in batch):
            shape, dtype = tuple(flat[name].shape), np.dtype(flat[name].dtype)
            leaves[name] = LazyArray(shape, dtype, _reader(fetch, index, name))
    return trees.unflatten(leaves)


class _LazyHandler(type_handlers.NumpyHandler):
    """Stores `LazyArray`s as numpy arrays, a batch at a time."""

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)

    async def serialize(self, values: Any, infos, args=None):
        args = args or [ocp.SaveArgs()] * len(values)
        for batch in _batches([value.nbytes for value in values], WRITE_BYTES):
            futures = await super().serialize(
                [values[i].read() for i in batch],
                [infos[i] for i in batch],
                [args[i] for i in batch],
            )
            for future in futures:
                await asyncio.to_thread(future.result)
        return []


def _batches(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Indices in order, in groups of at most `limit` bytes, or of one."""
    batches, total = [[]], 0
    for index, size in enumerate(sizes):
        if total + size > limit and batches[-1]:
            batches.append([])
            total = 0
        batches[-1].append(index)
        total += size
    return batches


def _as_lazy(leaf: Any) -> LazyArray:
    if isinstance(leaf, LazyArray):
        return leaf
    array = read_array(leaf)
    return LazyArray(array.shape, array.dtype, lambda: array)


def _reader(
    fetch: Callable[[int], dict[str, np.ndarray]], index: int, name: str
) -> Callable[[], np.ndarray]:
    return lambda: fetch(index)[name]


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
