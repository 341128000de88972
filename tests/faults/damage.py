"""Checkpoints that are not what was written."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from faults.runs import (
    EVERY,
    NUM_STEPS,
    Laboratory,
    Outcome,
    check,
    check_equal,
)

from ldm_jax.training import checkpoints, checksums

Spoil = Callable[[Path, random.Random], None]


def flip_a_bit(path: Path, generator: random.Random) -> None:
    """One bit of a file, anywhere."""
    content = bytearray(path.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, generator: random.Random) -> None:
    """Cut a file anywhere."""
    path.write_bytes(path.read_bytes()[: generator.randrange(path.stat().st_size)])


def remove(path: Path, generator: random.Random) -> None:
    """Lose a file; without its sums a checkpoint is one of an earlier version."""
    path.unlink()


def spoil_files(lab: Laboratory, stage: str, spoil: Spoil, num_trials: int) -> Outcome:
    """Spoil one file of the newest checkpoint: resuming falls back, readers refuse."""
    generator = random.Random(f"{stage} {spoil.__name__}")
    whole, spoilt = lab.whole(stage), lab.folder / "spoilt"
    steps = checkpoints.all_steps(whole)
    detected = 0
    for _ in range(num_trials):
        shutil.rmtree(spoilt, ignore_errors=True)
        shutil.copytree(whole / "checkpoints", spoilt / "checkpoints")
        newest = spoilt / "checkpoints" / str(steps[-1])
        files = sorted(f for f in newest.rglob("*") if f.is_file() and f.stat().st_size)
        if spoil is remove:
            files.remove(newest / checksums.FILE_NAME)
        # By size, as bits rot; every other time any file, for most are small.
        weights = [f.stat().st_size for f in files] if detected % 2 else None
        (path,) = generator.choices(files, weights)
        spoil(path, generator)
        name = path.relative_to(newest).as_posix()
        check(_is_refused(spoilt, name), f"{name} was not noticed by a reader")
        with checkpoints.open_checkpoints(spoilt) as manager:
            step = manager.newest_intact()
        check(step == steps[-2], f"{name}: went on from step {step}, not {steps[-2]}")
        aside = [p.name for p in newest.parent.iterdir() if "damaged" in p.name]
        check(aside == [f"{steps[-1]}.damaged"], f"moved aside: {aside}")
        detected += 1
    return Outcome(num_trials, detected, "named, moved aside, the one before taken")


def _is_refused(workdir: Path, name: str) -> bool:
    """Whether an error names the file."""
    step = checkpoints.all_steps(workdir)[-1]
    try:
        checkpoints.check_intact(checkpoints.checkpoint_dir(workdir), step)
    except checkpoints.CheckpointError as error:
        return name in str(error)
    return False


def resume_from_damage(lab: Laboratory, stage: str) -> Outcome:
    """The newest checkpoint rots: the run goes on from the one before, to the same end."""
    whole, workdir = lab.whole(stage), lab.new_workdir()
    lab.finish(stage, workdir, NUM_STEPS - EVERY)
    newest = workdir / "checkpoints" / str(NUM_STEPS - EVERY)
    largest = max(newest.glob("params/**/d/*"), key=lambda path: path.stat().st_size)
    flip_a_bit(largest, random.Random(0))
    said = lab.finish(stage, workdir)
    check(said.count("WARNING: the checkpoint") == 1, said[-800:])
    check(f"training goes on from step {NUM_STEPS - 2 * EVERY}" in said, said[-800:])
    check((newest.parent / f"{newest.name}.damaged").is_dir(), "not moved aside")
    check_equal(workdir, whole)
    return Outcome(1, 1, "one warning, then the same curve bit for bit")


def damage_all(lab: Laboratory, stage: str) -> Outcome:
    """Nothing intact is left: exit code 2, all folders where they were."""
    workdir = lab.new_workdir()
    shutil.copytree(lab.whole(stage), workdir)
    steps = checkpoints.all_steps(workdir)
    for step in steps:
        flip_a_bit(
            workdir / "checkpoints" / str(step) / "meta/metadata", random.Random()
        )
    with lab.train(stage, workdir) as (process,):
        code, said = process.wait(), process.stderr
    check(code == 2 and said.count("error:") == 1, f"{code}: {said[-800:]}")
    check("every checkpoint in" in said and "Traceback" not in said, said[-800:])
    check(checkpoints.all_steps(workdir) == steps, "checkpoints were moved")
    return Outcome(1, 1, "exit code 2, nothing moved")
