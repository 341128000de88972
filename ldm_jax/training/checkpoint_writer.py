"""Writing checkpoints beside the training, on disks that fill up.

One save is under way at a time, in orbax's threads; another thread waits for it and, should
it fail, says so at once and frees what it had taken. Whoever trains goes on: the older
checkpoints are untouched, and the next save is another try.
"""

import contextlib
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ldm_jax.training import checkpoint_files
from ldm_jax.training.checkpoint_files import (
    CheckpointError,
    DiskFullError,
    not_written,
)
from ldm_jax.training.state import TrainState
from ldm_jax.trees import num_bytes

logger = logging.getLogger(__name__)

ITEMS = ("params", "ema", "opt_state", "collections")


class CheckpointWriter:
    """The checkpoints of one folder, of which the newest `max_to_keep` are kept.

    Several processes make the same calls in the same order. Close it, or use it as a
    context manager: both wait for the last save.
    """

    def __init__(self, directory: Path, *, max_to_keep: int | None):
        """Makes the folder, and clears what a killed run left half-written in it."""
        self.directory = directory
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep,
            create=True,
            temporary_path_class=checkpoint_files.SummedFolder,
        )
        self._saving: threading.Thread | None = None
        self._failure: CheckpointError | None = None
        self._intact: int | None = None
        # What orbax logs of a failure, with its traceback, is one sentence of ours.
        logging.getLogger("absl").addFilter(_is_not_of_orbax)
        checkpoint_files.hush_abandoned_tasks()
        self._orbax = self._open()

    def _open(self) -> ocp.CheckpointManager:
        # Not orbax's own option, which cleans in the background: the space must be there
        # when the first save asks for it.
        checkpoint_files.clear_leftovers(self.directory)
        return ocp.CheckpointManager(self.directory, options=self._options)

    def all_steps(self) -> list[int]:
        """Steps that have a checkpoint or are being written."""
        return list(self._orbax.all_steps())

    def latest_step(self) -> int | None:
        """The last of them, intact or not; None for a new run."""
        return self._orbax.latest_step()

    def newest_intact(self) -> int | None:
        """The step to resume from: damaged checkpoints that are newer are moved aside.

        None for a new run. Process 0 reads and decides for all.

        Raises:
          CheckpointError: if there are checkpoints and none of them is intact.
        """
        if self._intact is not None and self._intact == self.latest_step():
            return self._intact
        error = None
        if jax.process_index() == 0:
            try:
                checkpoint_files.set_damaged_aside(self.directory)
            except CheckpointError as found:
                error = found
        if multihost_utils.broadcast_one_to_all(np.array(error is not None)):
            raise error or CheckpointError(
                f"every checkpoint in {self.directory} is damaged: the first process "
                f"says how"
            )
        self._orbax.reload()
        self._intact = self.latest_step()
        return self._intact

    def restore(self, step: int, args: ocp.args.Composite) -> Any:
        """What orbax restores; its errors are not translated."""
        return self._orbax.restore(step, args=args)

    def save(self, state: TrainState, meta: Mapping[str, Any] | None) -> bool:
        """See `checkpoints.save`; a save before this one that failed was reported."""
        self._settle()
        step = int(state.step)
        if step in self._orbax.all_steps():
            return False
        items = {name: getattr(state, name) for name in ITEMS}
        items = {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}
        size = num_bytes(items)
        self._check_free_space(size, step)
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        stamp = ocp.args.JsonSave({**(meta or {}), "step": step})
        try:
            self._orbax.save(step, args=ocp.args.Composite(**args, meta=stamp))
        except Exception as error:
            failure = not_written(self.directory, step, size, error)
            self._reopen()
            raise failure from error
        self._saving = threading.Thread(target=self._finish, args=(step, size))
        self._saving.start()
        return True

    def wait(self) -> None:
        """Block until the last save is on disk.

        Raises:
          CheckpointError: if it failed; the older checkpoints are untouched.
        """
        failure = self._settle()
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Wait, and end orbax's threads.

        Raises:
          CheckpointError: if the last save failed.
        """
        try:
            self.wait()
        finally:
            _close(self._orbax)
            checkpoint_files.clear_leftovers(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:  # which is the one to show
            with contextlib.suppress(CheckpointError):
                self.close()

    def _finish(self, step: int, size: int) -> None:
        """In a thread: wait for a save, and free at once what a failed one had taken."""
        try:
            self._orbax.wait_until_finished()
        except (ValueError, OSError, RuntimeError) as error:
            self._failure = not_written(self.directory, step, size, error)
            logger.warning("WARNING: %s", self._failure)

    def _settle(self) -> CheckpointError | None:
        """Wait for the save under way; how it failed, once, if it did."""
        if self._saving is not None:
            self._saving.join()
            self._saving = None
        failure, self._failure = self._failure, None
        if failure is not None:
            # The others may be waiting for a save that this process cannot finish.
            if jax.process_count() > 1:
                raise failure
            self._reopen()
        return failure

    def _reopen(self) -> None:
        """Orbax does not recover from a failed save: it lists the step ever after."""
        _close(self._orbax)
        self._orbax = self._open()

    def _check_free_space(self, size: int, step: int) -> None:
        """One answer for all processes, which write together."""
        error = None
        if jax.process_index() == 0:
            try:
                checkpoint_files.check_free_space(self.directory, size, step)
            except DiskFullError as found:
                error = found
        if multihost_utils.broadcast_one_to_all(np.array(error is not None)):
            raise error or DiskFullError(
                f"the disk of {self.directory} is too full for step {step}"
            )


def _close(manager: ocp.CheckpointManager) -> None:
    """Close it, whatever it has to say: errors of a save were taken note of."""
    for _ in range(3):  # each of its parts raises such an error once
        with contextlib.suppress(Exception):
            return manager.close()


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname
