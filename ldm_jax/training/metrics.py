"""Scalars and pictures of a run: metrics.jsonl, TensorBoard, the terminal.

`metrics.jsonl` is the source of truth: one flushed object a line, cut back on resume to
the step that was restored, so that a resumed run leaves the rows of an uninterrupted one.
"""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import UInt8

from ldm_jax.training.full_disk import PatientFile

logger = logging.getLogger(__name__)

Scalars = dict[str, float | None]

# Steps whose update was left out: a metric of runs that skip them (`guarded_step`).
SKIPPED = "skipped_steps"


class DivergedError(ValueError):
    """A loss or a gradient of step `step` is not finite."""

    def __init__(self, sentence: str, step: int):
        super().__init__(sentence)
        self.step = step


class Writer(Protocol):
    """A place that keeps scalars and, if it can, pictures."""

    def write_scalars(self, step: int, scalars: Mapping[str, float | None]) -> None: ...
    def write_image(
        self, step: int, name: str, pixels: UInt8[np.ndarray, "h w 3"]
    ) -> None: ...
    def close(self) -> None: ...


def fetch(metrics: Mapping[str, jax.Array]) -> dict[str, float]:
    """Device scalars -> floats; waits for the step that made them."""
    return {name: float(x) for name, x in jax.device_get(dict(metrics)).items()}


def watched(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Those that must be finite: losses and gradient norms."""
    return {k: v for k, v in metrics.items() if k.endswith(("loss", "grad_norm"))}


def check_finite(step: int, metrics: Mapping[str, Any]) -> None:
    """Stop a run whose loss or gradient norm is NaN or infinite; waits for the step.

    Raises:
      DivergedError: naming the first such metric, the step, and what to do.
    """
    for name, value in fetch(watched(metrics)).items():
        if not math.isfinite(value):
            raise DivergedError(
                f"training diverged: {name} is {value} at step {step}; the last "
                f"checkpoint is from before and was kept, so lower the learning rate or "
                f"set max_grad_norm and run the same command again to go on from there",
                step,
            )


def check_applied(step: int, metrics: Mapping[str, Any]) -> None:
    """The same for whoever writes: a step that the run leaves out is no reason to stop."""
    if SKIPPED not in metrics:
        check_finite(step, metrics)


class JsonlWriter:
    """Rows `{"step": ..., "loss": ..., ...}`; numbers that JSON lacks become null.

    While the disk is full, rows wait in memory.
    """

    def __init__(self, path: str | Path, *, first_step: int = 0):
        """Append to `path`, after dropping its rows later than `first_step`."""
        truncate_rows(path, first_step)
        self._file = PatientFile(path)

    def write_scalars(self, step: int, scalars: Mapping[str, float | None]) -> None:
        """Append one row; it is on its way to the disk when this returns."""
        row = {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in scalars.items()
        }
        self._file.write(json.dumps({"step": step, **row}).encode() + b"\n")
        self._file.flush()

    def write_image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Pictures are not kept here."""

    def close(self) -> None:
        """Nothing is open between rows; rows that wait for room have a last try."""
        self._file.close()


def truncate_rows(path: str | Path, last_step: int) -> None:
    """Drop rows after `last_step`, and a last line that a kill cut short."""
    path = Path(path)
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            is_kept = json.loads(line)["step"] <= last_step
        except (json.JSONDecodeError, KeyError, TypeError):
            is_kept = False
        if is_kept:
            kept.append(line + "\n")
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


class TensorBoardWriter:
    """TensorBoard events through tensorboardX; events after `first_step` are hidden."""

    def __init__(self, directory: str | Path, *, first_step: int = 0):
        from tensorboardX import SummaryWriter, record_writer

        # Its thread dies of a full disk, and then whoever adds an event waits for ever.
        record_writer.register_writer_factory(_PatientFiles.PREFIX, _PatientFiles())
        self._events = SummaryWriter(
            f"{_PatientFiles.PREFIX}:{directory}", purge_step=first_step + 1
        )

    def write_scalars(self, step: int, scalars: Mapping[str, float | None]) -> None:
        """One scalar summary for each value that there is."""
        for name, value in scalars.items():
            if value is not None:
                self._events.add_scalar(name, value, step)

    def write_image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """One image summary, uint8 [h w 3]."""
        self._events.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the event file."""
        self._events.close()


class _PatientFiles:
    """How tensorboardX opens the files whose names start with `PREFIX:`."""

    PREFIX = "patient"

    def open(self, path: str) -> PatientFile:
        return PatientFile(path.removeprefix(f"{self.PREFIX}:"))

    def directory_check(self, path: str) -> None:
        """The file makes its folder."""


class Console:
    """A progress bar on a terminal, plain log lines elsewhere; silent but on process 0.

    Both show the loss, images/s, MFU and the time left.
    """

    def __init__(self, *, first_step: int, num_steps: int):
        self._first_step, self._num_steps = first_step, num_steps
        self._started: tuple[float, int] | None = None
        self._bar = None
        self._is_silent = jax.process_index() != 0
        if sys.stderr.isatty() and not self._is_silent:
            from tqdm import tqdm

            self._bar = tqdm(total=num_steps, initial=first_step, unit="step")

    def tick(self, step: int) -> None:
        """A step was handed to the device."""
        if self._started is None:
            self._started = time.monotonic(), step
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def write_scalars(self, step: int, scalars: Mapping[str, float | None]) -> None:
        """Show the newest values."""
        if self._is_silent:
            return
        shown = _shown(scalars)
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=True)
            return
        text = " ".join(f"{name} {value}" for name, value in shown.items())
        line = f"step {step}/{self._num_steps} {text} left {self._time_left(step)}"
        print(line, file=sys.stderr, flush=True)

    def write_image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Pictures are not shown here."""

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()

    def _time_left(self, step: int) -> str:
        if self._started is None or step <= self._started[1]:
            return "?"
        started, first = self._started
        per_step = (time.monotonic() - started) / (step - first)
        seconds = round(per_step * (self._num_steps - step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _is_headline(name: str) -> bool:
    """Each objective's own loss, and whatever validation measured."""
    return name.startswith("val/") or name.count("/") == 1 and name.endswith("/loss")


def _shown(scalars: Mapping[str, float | None]) -> dict[str, str]:
    """The few values that a line has room for."""
    shown = {
        name: f"{value:.4g}"
        for name, value in scalars.items()
        if value is not None and _is_headline(name)
    }
    if "loss" in scalars and len(shown) <= 1:  # one objective: no need to name it
        shown = {"loss": f"{scalars['loss']:.4g}"}
    if scalars.get("images_per_sec") is not None:
        shown["images/s"] = f"{scalars['images_per_sec']:.4g}"
    if scalars.get("mfu") is not None:
        shown["mfu"] = f"{scalars['mfu']:.1%}"
    return shown


def make_writers(workdir: str | Path, *, first_step: int = 0) -> Sequence[Writer]:
    """The writers that keep a run's record in `workdir`; none but on process 0."""
    if jax.process_index() != 0:
        return ()
    writers: list[Writer] = [
        JsonlWriter(Path(workdir) / "metrics.jsonl", first_step=first_step)
    ]
    try:
        writers.append(TensorBoardWriter(workdir, first_step=first_step))
    except ImportError:
        logger.warning("tensorboardX is not installed: no TensorBoard events")
    return tuple(writers)
