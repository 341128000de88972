"""A recorded step, taken again: the same program on the same numbers."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldm_jax import build, pretrained
from ldm_jax import config as config_lib
from ldm_jax.recording import diagnose_fn
from ldm_jax.run_step import create_fn, jit_step, laid_out_tally
from ldm_jax.training import checkpoints, diagnosis, flight_recorder, sharding
from ldm_jax.training.metrics import SKIPPED

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Replay:
    """What came of a step that was taken again.

    Attributes:
      step: its number.
      differs: metrics whose bits are not those of the record: recorded, now.
      metrics: those that are not finite, now.
      diagnosis: the arrays that are not finite, of the batch, the parameters, ...
      layers: whose output was not finite, in the order of the computation.
      num_devices: then and now.
    """

    step: int
    differs: Mapping[str, tuple[str, str]]
    metrics: Mapping[str, str]
    diagnosis: diagnosis.Diagnosis
    layers: tuple[str, ...]
    num_devices: tuple[int, int]

    def describe(self) -> str:
        """Lines for a terminal."""
        lines = [f"step {self.step}: " + _joined(self.metrics)]
        if not self.metrics:
            lines = [f"step {self.step}: every loss and gradient norm is finite"]
        if self.differs:
            name, (then, now) = next(iter(self.differs.items()))
            lines.append(
                f"{len(self.differs)} metric(s) differ: {name} was {then}: {now}"
            )
            if self.num_devices[0] != self.num_devices[1]:
                then, now = map(str, self.num_devices)
                lines.append(f"recorded on {then} device(s), replayed on {now}")
        else:
            lines.append("every metric has the bits that were recorded")
        lines += [f"not finite, {phrase}" for phrase in self.diagnosis.phrases()]
        if self.layers:
            layers = diagnosis.shortened(self.layers)
            lines.append(f"first layer whose output is not finite: {layers}")
        else:
            lines.append("every layer's output is finite")
        return "\n".join(lines)


def replay(
    workdir: Path, step: int | None = None, *, devices: Sequence[Any] | None = None
) -> Replay:
    """Take a recorded step again; changes nothing on the disk.

    Args:
      step: the newest recorded one if None.
      devices: to lay the mesh over; all if None.

    Raises:
      FileNotFoundError, ValueError: one sentence if there is no such record, or a part of
        it is missing.
    """
    folder = _record(workdir, step)
    report = json.loads((folder / "report.json").read_text())
    config = config_lib.load(folder / "config.json")
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices=devices)
    experiment = build.experiment(config, workdir)
    place = sharding.replicated(mesh)
    frozen = jax.device_put(pretrained.frozen(config, workdir), place)
    key = jax.random.key(config.train.seed)
    shapes = jax.eval_shape(create_fn(config, experiment), key)
    shardings = sharding.infer_shardings(shapes, mesh)
    target = sharding.with_shardings(shapes, shardings)
    with _states(folder.parent / report["state"]) as manager:
        state, _ = checkpoints.restore_state(manager, target)
    before = jax.device_put(np.int32(report["step"] - 1), state.step.sharding)
    state = dataclasses.replace(state, step=before)
    batch = sharding.put_batch(_batch(folder, report), sharding.batch_sharding(mesh))
    with diagnosis.watched_layers() as layers:
        found = diagnose_fn(config, experiment, key, mesh)(state, frozen, batch)
    taken = jit_step(config, experiment, key, shardings, mesh)
    _, metrics, _ = taken(state, frozen, batch, laid_out_tally(mesh))
    now = {name: flight_recorder.number(x) for name, x in metrics.items()}
    return Replay(
        step=report["step"],
        differs={
            name: (then["value"], now[name]["value"])
            for name, then in report["metrics"].items()
            if name != SKIPPED and then["bits"] != now[name]["bits"]
        },
        metrics={
            name: x["value"]
            for name, x in now.items()
            if not np.isfinite(float(x["value"]))
        },
        diagnosis=found,
        layers=tuple(layers.not_finite()),
        num_devices=(report["num_devices"], mesh.size),
    )


def _record(workdir: Path, step: int | None) -> Path:
    steps = flight_recorder.recorded_steps(workdir)
    if not steps or (step is not None and step not in steps):
        there = f"there are {steps}" if steps else "it has none"
        raise FileNotFoundError(
            f"{workdir} has no record of a step that was not finite"
            f"{'' if step is None else f', {step}'}: {there}; give the --workdir and "
            "--step of the command that the run printed"
        )
    return flight_recorder.folder_of(workdir, steps[-1] if step is None else step)


def _states(folder: Path) -> checkpoints.Manager:
    if not (folder / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"{folder} no longer holds the state that the step started from: only the "
            f"newest {flight_recorder.MAX_STATES} are kept; replay a later --step"
        )
    return checkpoints.open_checkpoints(folder, max_to_keep=None)


def _batch(folder: Path, report: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The global batch, from the rows of every process."""
    parts = []
    for index in range(report["num_processes"]):
        with np.load(folder / f"batch_{index}.npz", allow_pickle=False) as stored:
            parts.append({name: stored[name] for name in stored.files})
    order = np.argsort(np.concatenate([part[flight_recorder.ROWS] for part in parts]))
    return {
        name: np.concatenate([part[name] for part in parts])[order]
        for name in report["fields"]
    }


def _joined(metrics: Mapping[str, str]) -> str:
    return ", ".join(f"{name} is {value}" for name, value in metrics.items())
