"""A disk that is full for a while, or for good."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faults.runs import (
    ENDLESS,
    Laboratory,
    Outcome,
    check,
    check_prefix,
    check_tidy,
    finish,
    has_checkpoints,
    has_steps,
    rows,
    wait_until,
)

from ldm_jax.training import checkpoints


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own, in memory.

    Raises:
      PermissionError: if this user may not mount one.
    """
    place.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    if os.getuid() != 0 or not shutil.which("mount"):
        raise PermissionError("mounting a small disk needs root")
    done = subprocess.run(["mount", *options], capture_output=True, check=False)
    if done.returncode != 0:
        raise PermissionError("a small disk cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Leave not one byte free."""
    junk = disk / "junk"
    with junk.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return junk


def be_full_for_a_while(lab: Laboratory, stage: str) -> Outcome:
    """Training goes on with a warning a save, and saves again once there is room."""
    with small_disk(lab.new_workdir(), 48) as disk:
        workdir = disk / "run"
        with lab.train(stage, workdir, ENDLESS) as (process,):
            wait_until(has_checkpoints(workdir, 2), [process])
            junk = fill(disk)
            said = "training goes on, and tries again"
            wait_until(lambda: process.stderr.count(said) >= 2, [process])
            before = checkpoints.all_steps(workdir)
            check(bool(before), "the older checkpoints are gone")
            junk.unlink()
            wait_until(
                lambda: max(checkpoints.all_steps(workdir)) > max(before), [process]
            )
            process.send(signal.SIGTERM)
            finish([process])
            said = process.stderr
        check("Traceback" not in said, said[-1500:])
        check_prefix(workdir, lab.whole(stage))
        check(len(rows(workdir)) == max(checkpoints.all_steps(workdir)), "lost rows")
        check_tidy(workdir)
        warnings = said.count("WARNING: the disk of")
        return Outcome(1, 1, f"{warnings} warnings, then saved again, no row lost")


def be_full_at_the_end(lab: Laboratory, stage: str) -> Outcome:
    """The last save fails: exit code 2, and what was saved before is intact."""
    with small_disk(lab.new_workdir(), 48) as disk:
        workdir = disk / "run"
        with lab.train(stage, workdir, ENDLESS) as (process,):
            wait_until(has_checkpoints(workdir, 2), [process])
            junk = fill(disk)
            wait_until(has_steps(workdir, 1), [process])
            wait_until(lambda: "tries again" in process.stderr, [process])
            process.send(signal.SIGTERM)
            code, said = process.wait(), process.stderr
        check(code == 2 and said.count("error:") == 1, f"{code}: {said[-800:]}")
        check("MiB free, but the checkpoint" in said, said[-800:])
        check("Traceback" not in said, said[-1500:])
        last = max(checkpoints.all_steps(workdir))
        check_tidy(workdir)
        junk.unlink()
        lab.finish(stage, workdir, last + 3)
        check_prefix(workdir, lab.whole(stage))
        check_tidy(workdir)
        return Outcome(1, 1, "exit code 2; the same command later resumed bit for bit")
