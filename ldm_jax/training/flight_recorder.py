"""What is kept of a step whose loss or gradient was not finite.

`workdir/nonfinite/step_<k>/` holds `report.json` (metrics with their bits, norms, seed,
layout), `batch_<process>.npz` as the host had it, `config.json` and, as a checkpoint of
step k - 1, the state the step started from. In a row of such steps the first one's state
is that of all. Keys need no file: they follow from the seed and the step.
"""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ldm_jax.training import checkpoints, diagnosis, loop
from ldm_jax.training.guarded_step import GuardedStep
from ldm_jax.training.metrics import DivergedError
from ldm_jax.training.recent_batches import RecentBatches
from ldm_jax.training.state import TrainState

logger = logging.getLogger(__name__)

POLICIES = ("stop", "skip")
MAX_STATES = 3
ROWS = "rows of the global batch"  # beside a batch's fields


@dataclasses.dataclass(frozen=True)
class Recorder:
    """Where records go and what they say beside the step itself.

    Attributes:
      workdir: of the run.
      policy: "stop" ends the run at the first such step; "skip" leaves its update out.
      max_in_a_row: so many steps left out one after the other end the run too.
      about: what JSON can hold: seed, mesh.
      config_json: the run's config, for the replay.
      fields: of a host batch, those that are computed with.
      rows: of a host batch, where its rows are in the global one.
      diagnose: `(state, host batch) -> Diagnosis`.
    """

    workdir: Path
    policy: str
    max_in_a_row: int
    about: Mapping[str, Any]
    config_json: str
    fields: Callable[[Mapping], Sequence[str]]
    rows: Callable[[Mapping], np.ndarray]
    diagnose: Callable[[TrainState, Mapping], diagnosis.Diagnosis]

    def num_skipped(self, step: int) -> int:
        """How many of the first `step` steps were left out."""
        if self.policy == "stop":
            return 0
        return sum(recorded <= step for recorded in recorded_steps(self.workdir))


def run(
    state: TrainState,
    batches: RecentBatches,
    put: Callable[[Mapping], Mapping[str, jax.Array]],
    step_fn: GuardedStep,
    hooks: Sequence[loop.Hook],
    num_steps: int,
    recorder: Recorder,
    *,
    should_stop: Callable[[int], bool],
) -> TrainState:
    """`loop.run` that records every step that is not finite.

    Raises:
      DivergedError: naming the command that repeats the step, unless it is to be skipped.
    """
    row: list[int] = []
    while True:
        try:
            return loop.run(
                state,
                map(put, batches),
                step_fn,
                hooks,
                num_steps,
                should_stop=should_stop,
            )
        except DivergedError as error:
            step = error.step
            row = [*row, step] if row and row[-1] == step - 1 else [step]
            record(
                recorder,
                step_fn.state_at(step - 1),
                batches.get(step) or {},
                step_fn.metrics[step],
                first_step=row[0],
            )
            _stop_or_warn(recorder, error, row)
            batches.rewind(step)
            state = step_fn.go_on(step)


def _stop_or_warn(recorder: Recorder, error: DivergedError, row: list[int]) -> None:
    replay = replay_command(recorder.workdir, error.step)
    if recorder.policy == "stop":
        raise DivergedError(f"{error}; to see where: {replay}", error.step) from error
    if len(row) >= recorder.max_in_a_row:
        raise DivergedError(
            f"{error}; {len(row)} steps in a row were left out by now "
            f"(config.train.max_skipped_in_a_row), so this is no single bad batch; to "
            f"see where: {replay}",
            error.step,
        ) from error
    if jax.process_index() == 0:
        logger.warning(
            "WARNING: step %d was left out: its loss or gradient is not finite; to see "
            "where: %s",
            *(error.step, replay),
        )


def replay_command(workdir: Path, step: int) -> str:
    """One line for a shell."""
    return f"python tools/replay_step.py --workdir={workdir} --step={step}"


def folder_of(workdir: Path, step: int) -> Path:
    """Of the record of a step."""
    return workdir / "nonfinite" / f"step_{step}"


def recorded_steps(workdir: Path) -> list[int]:
    """Steps that have a record, in order."""
    found = (workdir / "nonfinite").glob("step_*/report.json")
    return sorted(int(path.parent.name.removeprefix("step_")) for path in found)


def record(
    recorder: Recorder,
    state: TrainState,
    batch: Mapping[str, np.ndarray],
    step_metrics: Mapping[str, jax.Array],
    *,
    first_step: int,
) -> None:
    """Write the record of step `state.step + 1`; all processes together.

    What does not fit on the disk is left out with a warning: the run has its own error
    to tell. `first_step` is the first step of a row that started from the same state.
    """
    step = int(state.step) + 1
    folder = folder_of(recorder.workdir, step)
    if jax.process_index() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(recorder.config_json)
    multihost_utils.sync_global_devices("a step is being recorded")
    report = {
        "step": step,
        "state": folder_of(recorder.workdir, first_step).name,
        "fields": list(recorder.fields(batch)),
        "num_processes": jax.process_count(),
        "jax": jax.__version__,
        **recorder.about,
        "metrics": {name: number(x) for name, x in step_metrics.items()},
        "replay": replay_command(recorder.workdir, step),
    }
    try:
        arrays: dict[str, Any] = {**batch, ROWS: recorder.rows(batch)}
        np.savez(folder / f"batch_{jax.process_index()}.npz", **arrays)
        _write(folder, report)
        if first_step == step:
            _save_state(recorder.workdir, folder, state)
    except (OSError, checkpoints.CheckpointError) as error:
        logger.warning("WARNING: step %d is recorded in part: %s", step, error)
    try:
        found = recorder.diagnose(state, batch)
    except RuntimeError as error:  # out of memory, say
        logger.warning("WARNING: no norms of step %d: %s", step, error)
        return
    report |= {
        "not_finite": {
            role: names for role, names in found.not_finite.items() if names
        },
        "norms": {
            role: {name: str(norm) for name, norm in norms.items()}
            for role, norms in found.norms().items()
        },
    }
    try:
        _write(folder, report)
    except OSError as error:
        logger.warning("WARNING: no norms of step %d: %s", step, error)


def _save_state(workdir: Path, folder: Path, state: TrainState) -> None:
    if jax.process_index() == 0:
        older = [
            folder_of(workdir, step) / "checkpoints" for step in recorded_steps(workdir)
        ]
        older = [path for path in older if path.exists()]
        for path in older[: max(0, len(older) - MAX_STATES + 1)]:
            shutil.rmtree(path, ignore_errors=True)
    with checkpoints.open_checkpoints(folder, max_to_keep=1) as manager:
        checkpoints.save(manager, state)


def number(x: jax.Array) -> dict[str, str]:
    """A scalar as one reads it and, in hexadecimal, as it is."""
    value = np.asarray(jax.device_get(x), np.float32)
    return {"value": str(value), "bits": value.tobytes()[::-1].hex()}


def _write(folder: Path, report: Mapping[str, Any]) -> None:
    if jax.process_index() == 0:
        partial = folder / "report.partial"
        partial.write_text(json.dumps(report, indent=1) + "\n")
        partial.replace(folder / "report.json")
