"""The tiny runs that faults happen to, and what they must come to all the same."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import processes

from ldm_jax import trees
from ldm_jax.training import checkpoints, checksums

NUM_STEPS = 40
EVERY = 4  # steps from one checkpoint to the next
TIMINGS = ("images_per_sec", "mfu")
ENDLESS = 10**6
PATIENCE = 1200.0  # seconds, for two processes that compile on a busy machine


@dataclass(frozen=True)
class Outcome:
    """Of one row of the matrix."""

    trials: int
    passed: int
    note: str


class Faulty(AssertionError):
    """A run that did not take a fault as it should have."""


def check(is_so: bool, complaint: str) -> None:
    """Fail a trial."""
    if not is_so:
        raise Faulty(complaint)


class Laboratory:
    """Where runs are made; undisturbed ones only once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._count = 0

    def new_workdir(self) -> Path:
        """A folder for another run, where nobody has trained: not in a kept lab either."""
        while True:
            self._count += 1
            workdir = self.folder / f"run_{self._count}"
            if not workdir.exists():
                return workdir

    def first_stage(self) -> Path:
        """A tiny autoencoder that is hardly trained."""
        workdir = self.folder / "first_stage"
        if not checkpoints.all_steps(workdir):
            command = processes.train_command(
                "tiny/autoencoder.py", workdir, train__num_steps=1
            )
            with processes.start(command) as process:
                finish([process])
        return workdir

    @contextmanager
    def train(
        self,
        stage: str,
        workdir: Path,
        num_steps: int = NUM_STEPS,
        *,
        num_processes: int = 1,
        flags: tuple[str, ...] = (),
        **overrides: object,
    ) -> Iterator[list[processes.Process]]:
        """The processes of `train.py`: "autoencoder" or "ldm", one device each."""
        if stage == "ldm":
            overrides |= {"autoencoder__checkpoint": self.first_stage()}
        command = processes.train_command(
            f"tiny/{stage}.py",
            workdir,
            train__num_steps=num_steps,
            train__checkpoint_every=EVERY,
            **overrides,
        )
        command += list(flags)
        if num_processes == 1:
            with processes.start(command) as process:
                yield [process]
            return
        with processes.start_group(command, num_processes, num_devices=1) as group:
            yield group

    def finish(self, stage: str, workdir: Path, *args, **options) -> str:
        """Train to the end; what the first process wrote to stderr."""
        with self.train(stage, workdir, *args, **options) as group:
            finish(group)
            return group[0].stderr

    def whole(self, stage: str, num_processes: int = 1) -> Path:
        """The run that nothing happens to."""
        workdir = self.folder / f"whole_{stage}_{num_processes}"
        if NUM_STEPS not in checkpoints.all_steps(workdir):
            self.finish(stage, workdir, num_processes=num_processes)
        return workdir


def rows(workdir: Path) -> list[dict]:
    """Complete lines of metrics.jsonl, without what depends on the clock."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in found]


def has_steps(workdir: Path, count: int):
    """`() -> bool`: whether so many steps were logged."""
    return lambda: len(rows(workdir)) >= count


def has_checkpoints(workdir: Path, count: int):
    """`() -> bool`: whether so many checkpoints are complete."""
    return lambda: len(checkpoints.all_steps(workdir)) >= count


def check_prefix(workdir: Path, whole: Path) -> None:
    """Every row, bit for bit, is that of the undisturbed run; none is twice or missing."""
    found, expected = rows(workdir), rows(whole)
    steps = [row["step"] for row in found]
    check(steps == list(range(1, len(steps) + 1)), f"rows of the steps {steps}")
    common = min(len(found), len(expected))
    for ours, theirs in zip(found[:common], expected[:common], strict=True):
        check(ours == theirs, f"step {ours['step']}: {ours} is not {theirs}")


def check_equal(workdir: Path, whole: Path) -> None:
    """The whole curve, the last state, and nothing half-written left."""
    check_prefix(workdir, whole)
    check(len(rows(workdir)) == NUM_STEPS, f"{len(rows(workdir))} rows")
    for item in checkpoints.ITEMS:
        ours, theirs = (
            trees.flatten(checkpoints.load_item(folder, item, step=NUM_STEPS))
            for folder in (workdir, whole)
        )
        check(ours.keys() == theirs.keys(), f"{item} has other leaves")
        for name, value in ours.items():
            check(np.array_equal(value, theirs[name]), f"{item}/{name} differs")
    check_tidy(workdir)


def check_tidy(workdir: Path) -> None:
    """All that is listed is intact, and no temporary folder is left."""
    folder = checkpoints.checkpoint_dir(workdir)
    check(not list(folder.glob("*tmp*")), "a temporary folder is left")
    for step in checkpoints.all_steps(workdir):
        damage = checksums.find_damage(folder / str(step))
        check(checksums.has_sums(folder / str(step)), f"step {step} has no sums")
        check(not damage, f"step {step}: {damage}")


def finish(group: Sequence[processes.Process]) -> None:
    """Wait until all have ended well."""
    processes.finish(group, PATIENCE)


def wait_until(is_so: Callable[[], bool], group: Sequence[processes.Process]) -> None:
    """Wait for something that runs bring about before they end."""
    processes.wait_until(is_so, group, PATIENCE)


def say(text: str) -> None:
    """Progress of a long matrix."""
    print(text, file=sys.stderr, flush=True)
