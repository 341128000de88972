"""Processes that end when they should not."""

import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
from faults.runs import (
    ENDLESS,
    EVERY,
    NUM_STEPS,
    Faulty,
    Laboratory,
    Outcome,
    check,
    check_equal,
    check_prefix,
    check_tidy,
    finish,
    has_checkpoints,
    has_steps,
    rows,
    say,
    wait_until,
)

from ldm_jax.training import checkpoints


def kill_at_random_times(
    lab: Laboratory, stage: str, num_processes: int, num_kills: int, seed: int = 0
) -> Outcome:
    """SIGKILL one run again and again, then let it end; every other kill aims at a save.

    What is on the disk after every kill must be the start of the undisturbed run, and the
    end its end.
    """
    generator = random.Random(f"{stage} {num_processes} {seed}")
    whole = lab.whole(stage, num_processes)
    workdir, passed, in_saves = lab.new_workdir(), 0, 0
    for index in range(num_kills):
        share = (index + generator.random()) / num_kills
        first = 1 + int(share * (NUM_STEPS - 3 * EVERY))
        with lab.train(stage, workdir, num_processes=num_processes) as group:
            _wait(workdir, group, first, in_save=index % 2 == 0)
            time.sleep(generator.uniform(0, 0.1))
            for process in generator.sample(group, len(group)):
                process.send(signal.SIGKILL)
            codes = [process.wait() for process in group]
        check(codes == [-9] * num_processes, f"it had ended already: {codes}")
        leftovers = list(checkpoints.checkpoint_dir(workdir).glob("*tmp*"))
        in_saves += bool(leftovers)
        check_prefix(workdir, whole)
        passed += 1
        where = "while saving" if leftovers else "between saves"
        say(f"  kill {index + 1} at step {len(rows(workdir))}, {where}")
    lab.finish(stage, workdir, num_processes=num_processes)
    check_equal(workdir, whole)
    return Outcome(num_kills, passed, f"{in_saves} of the kills while saving")


def _wait(workdir: Path, group, first: int, *, in_save: bool) -> None:
    folder = checkpoints.checkpoint_dir(workdir)

    def is_due() -> bool:
        is_saving = any(folder.glob("*.orbax-checkpoint-tmp"))
        return len(rows(workdir)) >= first and is_saving == in_save

    wait_until(is_due, group)


def terminate(lab: Laboratory, stage: str, num_processes: int, seed: int) -> Outcome:
    """SIGTERM to one process: all save the same step and exit with 0 and a line."""
    generator = random.Random(seed)
    workdir = lab.new_workdir()
    with lab.train(stage, workdir, num_processes=num_processes) as group:
        first = generator.randint(2, NUM_STEPS // 2)
        wait_until(has_steps(workdir, first), group)
        generator.choice(group).send(signal.SIGTERM)
        finish(group)
        said = group[0].stderr
    step = max(checkpoints.all_steps(workdir))
    check(len(rows(workdir)) == step, f"{len(rows(workdir))} rows, step {step} saved")
    check(step == NUM_STEPS or f"stopped at step {step}" in said, said[-500:])
    lab.finish(stage, workdir, num_processes=num_processes)
    check_equal(workdir, lab.whole(stage, num_processes))
    return Outcome(1, 1, f"stopped at step {step}")


def lose_a_peer(lab: Laboratory, stage: str, victim: int) -> Outcome:
    """SIGKILL one of two: the other ends by itself, soon, with one sentence."""
    workdir = lab.new_workdir()
    flags = ("--peer_timeout=10",)
    with lab.train(stage, workdir, ENDLESS, num_processes=2, flags=flags) as group:
        wait_until(has_checkpoints(workdir, 1), group)
        group[victim].send(signal.SIGKILL)
        started = time.monotonic()
        code = group[1 - victim].wait(120)
        seconds = time.monotonic() - started
        said = group[1 - victim].stderr
    check(code > 0, f"exit code {code}: {said[-500:]}")
    # Beside it stands a line of gloo's or of the coordination service's own.
    check(said.count("error: ") == 1 and "Traceback" not in said, said[-1500:])
    check_prefix(workdir, lab.whole(stage, 2))
    last = max(checkpoints.all_steps(workdir))
    lab.finish(stage, workdir, max(last + 2, NUM_STEPS), num_processes=2)
    check_prefix(workdir, lab.whole(stage, 2))
    check_tidy(workdir)
    return Outcome(1, 1, f"process {victim} lost, code {code} after {seconds:.0f} s")


def kill_a_worker(lab: Laboratory, stage: str) -> Outcome:
    """SIGKILL a process that reads data: the run ends with code 3 and a sentence."""
    workdir = lab.new_workdir()
    with lab.train(stage, workdir, ENDLESS, data__num_workers=2) as (process,):
        wait_until(has_steps(workdir, EVERY + 1), [process])
        workers = _children(process.pid, "spawn_main")
        check(len(workers) == 2, f"{len(workers)} workers")
        process_id = random.choice(workers)
        subprocess.run(["kill", "-9", str(process_id)], check=True)
        code, said = process.wait(120), process.stderr
    check(code == 3, f"exit code {code}: {said[-800:]}")
    check("error: a worker process of the data loader ended" in said, said[-800:])
    check("Traceback" not in said, said[-1500:])
    check_prefix(workdir, lab.whole(stage))
    last = max(checkpoints.all_steps(workdir))
    lab.finish(stage, workdir, max(last + 2, NUM_STEPS), data__num_workers=2)
    check_prefix(workdir, lab.whole(stage))
    check_tidy(workdir)
    return Outcome(1, 1, "then resumed with two workers, bit for bit")


def _children(parent: int, word: str) -> list[int]:
    """Process ids of children whose command line holds `word`."""
    command = ["ps", "--ppid", str(parent), "-o", "pid=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split(None, 1) for line in listed.stdout.splitlines()]
    return [int(number) for number, args in lines if word in args]


def start_twice(lab: Laboratory, stage: str) -> Outcome:
    """A second run in one workdir refuses; the first does not notice."""
    workdir = lab.new_workdir()
    with lab.train(stage, workdir, ENDLESS) as (first,):
        wait_until(has_steps(workdir, 2), [first])
        with lab.train(stage, workdir) as (second,):
            code, said = second.wait(), second.stderr
        check(code == 2 and said.count("error:") == 1, f"{code}: {said[-500:]}")
        first.send(signal.SIGTERM)
        finish([first])
    check_prefix(workdir, lab.whole(stage))
    check_tidy(workdir)
    return Outcome(1, 1, "exit code 2")


def change_the_number_of_processes(
    lab: Laboratory, stage: str, before: int, after: int, rtol: float
) -> Outcome:
    """Half of a run by `before` processes, the rest by `after`."""
    workdir, half = lab.new_workdir(), NUM_STEPS // 2
    lab.finish(stage, workdir, half, num_processes=before)
    check(max(checkpoints.all_steps(workdir)) == half, "it did not stop halfway")
    said = lab.finish(stage, workdir, num_processes=after)
    check(f"resuming {workdir} at step {half}" in said, said[-800:])
    ours, theirs = (
        np.array([row["loss"] for row in rows(folder)])
        for folder in (workdir, lab.whole(stage, before))
    )
    check(np.array_equal(ours[:half], theirs[:half]), "the first half differs")
    difference = float(np.max(np.abs(ours / theirs - 1)))
    if difference > rtol:
        raise Faulty(f"losses differ by {difference:.2g} of their size")
    return Outcome(1, 1, f"{before} -> {after}: losses within {difference:.1g}")
