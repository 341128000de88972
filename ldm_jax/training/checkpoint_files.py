"""The folders `workdir/checkpoints/<step>/`: which there are, and whether to believe them.

A checkpoint appears whole, by a rename, and with the sums of its files in it. One whose
files differ from these is never read: only training goes on without it, from the newest
intact one, and moves it to `<step>.damaged`.
"""

import asyncio
import functools
import logging
import os
import shutil
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from ldm_jax.training import checksums

PyTree = Any

logger = logging.getLogger(__name__)

RESERVE_BYTES = 2**24
CLEARING_TRIES = 10
# What says which arrays an item has: all of it small.
DESCRIPTION = ("_METADATA", "_sharding", "manifest.ocdbt", "array_metadatas")


class CheckpointError(ValueError):
    """A checkpoint cannot be written, read, or used for this model."""


class DiskFullError(CheckpointError):
    """There is no room for a checkpoint now; there may be later."""


class SummedFolder(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """Where orbax writes a step: its sums are in it before it gets its name."""

    async def finalize(self) -> None:
        """Write the sums, in orbax's thread, and rename: both or neither are seen."""
        if not self.get_final().name.isdigit():  # an item, in the folder of its step
            return await super().finalize()
        folder = Path(self.get())
        store = self._checkpoint_metadata_store
        if store is not None:
            await asyncio.to_thread(store.wait_until_finished)
        await asyncio.to_thread(checksums.write_sums, folder)
        await asyncio.to_thread(os.rename, folder, self.get_final())


def checkpoint_dir(workdir: str | Path) -> Path:
    """Where a run keeps its checkpoints."""
    return Path(workdir).absolute() / "checkpoints"


def all_steps(workdir: str | Path) -> list[int]:
    """Steps that have a complete checkpoint, oldest first; empty for a new run."""
    return steps_in(checkpoint_dir(workdir))


def steps_in(directory: Path) -> list[int]:
    """The same for a folder of checkpoints."""
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit())


def resolve_step(directory: Path, step: int | None) -> int:
    """`step`, or the newest in a folder of checkpoints.

    Raises:
      FileNotFoundError: if there is none.
    """
    steps = steps_in(directory)
    if not steps:
        raise FileNotFoundError(
            f"no checkpoint in {directory}: train that model first, or correct the path"
        )
    if step is not None and step not in steps:
        raise FileNotFoundError(
            f"no checkpoint of step {step} in {directory}: there are {steps}"
        )
    return steps[-1] if step is None else step


def clear_leftovers(directory: Path) -> None:
    """Remove what a killed or failed save left half-written; process 0 does."""
    if jax.process_index() != 0:
        return
    for _ in range(CLEARING_TRIES):
        leftovers = list(directory.glob("*.orbax-checkpoint-tmp*"))
        if not leftovers:
            return
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)
        # The parts of a save end one by one, and each makes the folder that it misses.
        time.sleep(0.05)


def check_free_space(directory: str | Path, num_bytes_needed: int, step: int) -> None:
    """Refuse a save that would fill the disk: orbax notices only when it is too late.

    Raises:
      DiskFullError: if fewer bytes are free than needed (and a small reserve).
    """
    free = shutil.disk_usage(directory).free
    if free < num_bytes_needed + RESERVE_BYTES:
        raise DiskFullError(
            f"the disk of {directory} has {free / 2**20:.0f} MiB free, but the checkpoint "
            f"of step {step} needs {(num_bytes_needed + RESERVE_BYTES) / 2**20:.0f} MiB: "
            f"free some space"
        )


def check_intact(
    directory: Path, step: int, parts: Collection[str] | None = None
) -> None:
    """Compare a checkpoint with the sums that were written with it.

    Args:
      parts: of it, such as "ema" or "params/_METADATA", with all below; None for all.

    Raises:
      CheckpointError: naming the first file that is not what was written, and the
        newest checkpoint that is intact.
    """
    damage = _find_damage(directory, step, parts)
    if damage:
        older = (other for other in reversed(steps_in(directory)) if other != step)
        good = next((other for other in older if is_intact(directory, other)), None)
        way_out = "put an intact copy in its place" + (
            f", or move that folder away to use step {good}, which is intact"
            if good is not None
            else "; no other checkpoint there is intact"
        )
        raise CheckpointError(
            f"the checkpoint of step {step} in {directory} is damaged "
            f"({_first_of(damage)}): {way_out}"
        )


def is_intact(directory: Path, step: int) -> bool:
    """Whether every file of a checkpoint is what was written."""
    return not _find_damage(directory, step, None)


def set_damaged_aside(directory: Path) -> None:
    """Make the newest checkpoint one that is intact; newer ones become `<step>.damaged`.

    Nothing is deleted, and one warning for each says what is wrong with it.

    Raises:
      CheckpointError: if there are checkpoints and none is intact; all stay in place.
    """
    damaged: dict[int, tuple[str, ...]] = {}
    for step in reversed(steps_in(directory)):
        damage = _find_damage(directory, step, None)
        if not damage:
            break
        damaged[step] = damage
    else:
        if damaged:
            found = "; ".join(f"{s}: {_first_of(d)}" for s, d in damaged.items())
            raise CheckpointError(
                f"every checkpoint in {directory} is damaged ({found}): put an intact "
                f"copy in its place, or start anew in another --workdir"
            )
        return
    for newer, damage in damaged.items():
        aside = _unused_name(directory / f"{newer}.damaged")
        (directory / str(newer)).rename(aside)
        logger.warning(
            "WARNING: the checkpoint of step %d in %s is damaged (%s) and was moved to "
            "%s: training goes on from step %d, the newest that is intact",
            *(newer, directory, _first_of(damage), aside.name, step),
        )


def _find_damage(
    directory: Path, step: int, parts: Collection[str] | None
) -> tuple[str, ...]:
    folder = directory / str(step)
    if not checksums.has_sums(folder):
        _report_unsummed(directory, step)
        return ()
    return checksums.find_damage(folder, parts)


@functools.cache
def _report_unsummed(directory: Path, step: int) -> None:
    logger.info(
        "the checkpoint of step %d in %s has no checksums, as those of earlier versions "
        "have none: it is read unchecked",
        *(step, directory),
    )


def _first_of(damage: tuple[str, ...]) -> str:
    first, *others = damage
    return f"{first} and {len(others)} more" if others else first


def _unused_name(path: Path) -> Path:
    """`path`, or with a number behind it if that was taken by an earlier accident."""
    taken, number = path, 2
    while taken.exists():
        taken, number = path.with_name(f"{path.name}.{number}"), number + 1
    return taken


def item_shapes(directory: Path, step: int, item: str) -> PyTree:
    """Shapes and dtypes of a stored item.

    Raises:
      CheckpointError: if what describes it is damaged.
    """
    check_intact(directory, step, tuple(f"{item}/{name}" for name in DESCRIPTION))
    try:
        path = directory / str(step) / item
        metadata = ocp.PyTreeCheckpointHandler().metadata(epath.Path(path))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), metadata.tree
        )
    except Exception as error:
        check_intact(directory, step, (item,))  # which has a better sentence
        raise unreadable(directory, step, error) from error


def unreadable(directory: Path, step: int, error: Exception) -> CheckpointError:
    """The sentence for a checkpoint that orbax cannot read."""
    hush_abandoned_tasks()
    return CheckpointError(
        f"the checkpoint of step {step} in {directory} cannot be read "
        f"({_first_line(error)}): delete the folder {directory / str(step)} to go on from "
        f"an older one, or put an intact copy in its place"
    )


@functools.cache
def hush_abandoned_tasks() -> None:
    """Keep what orbax abandons from burying the sentence that says what went wrong.

    It reads and writes in parallel, and once one part has failed, a traceback would be
    printed for each of the others.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def show_others(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = show_others


def not_written(
    directory: Path, step: int, num_bytes: int, error: Exception
) -> CheckpointError:
    """The sentence for a save that failed, whose half is removed first."""
    clear_leftovers(directory)
    text = str(error)
    is_full = any(word in text for word in ("RESOURCE_EXHAUSTED", "No space left"))
    kind = DiskFullError if is_full else CheckpointError
    free = shutil.disk_usage(directory).free
    return kind(
        f"the checkpoint of step {step} could not be written to {directory}, where "
        f"{free / 2**20:.0f} MiB are free and it needs {num_bytes / 2**20:.0f} MiB "
        f"({_first_line(error)}): see to the disk, the older checkpoints are intact"
    )


def _first_line(error: BaseException) -> str:
    """What fits into a sentence of an error's text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
