"""Every fault, many times: `make faults` prints this table and writes it down.

PYTHONPATH=tests python -m faults.matrix [--only=WORD] [--folder=DIR]
"""

import argparse
import datetime
import logging
import os
import platform
import re
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from faults import damage, disks, kills
from faults.runs import Laboratory, Outcome, say

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
STAGES = {"autoencoder": "first stage", "ldm": "denoiser"}


@dataclass(frozen=True)
class Row:
    """A fault, and trials of it."""

    fault: str
    trial: Callable[[Laboratory], Outcome]


def all_rows() -> list[Row]:
    """The matrix."""
    rows = []
    for stage, name in STAGES.items():
        for num_processes, num_kills in ((1, 6), (2, 4)):
            rows += [
                Row(
                    f"SIGKILL at random times: {name}, {_several(num_processes)}",
                    partial(
                        kills.kill_at_random_times,
                        stage=stage,
                        num_processes=num_processes,
                        num_kills=num_kills,
                    ),
                )
            ]
    rows += [
        Row(
            f"one bit flipped in a checkpoint: {name}",
            partial(damage.spoil_files, stage=s, spoil=damage.flip_a_bit, num_trials=n),
        )
        for s, name, n in (("autoencoder", "first stage", 20), ("ldm", "denoiser", 20))
    ]
    denoiser = {"stage": "ldm"}
    rows += [
        Row("a file of a checkpoint truncated", partial(damage.spoil_files,
            spoil=damage.truncate, num_trials=10, **denoiser)),
        Row("a file of a checkpoint lost", partial(damage.spoil_files,
            spoil=damage.remove, num_trials=10, **denoiser)),
        Row("resuming after rot", partial(damage.resume_from_damage, **denoiser)),
        Row("every checkpoint rotten", partial(damage.damage_all, **denoiser)),
        Row("disk full for a while", partial(disks.be_full_for_a_while, **denoiser)),
        Row("disk full at the last save", partial(disks.be_full_at_the_end, **denoiser)),
        Row("a worker of the loader killed", partial(kills.kill_a_worker, **denoiser)),
        Row("two runs in one workdir", partial(kills.start_twice, **denoiser)),
        Row("SIGTERM", partial(kills.terminate, num_processes=1, seed=1, **denoiser)),
        Row("SIGTERM to one of two processes",
            partial(kills.terminate, num_processes=2, seed=2, **denoiser)),
        Row("process 1 of 2 lost", partial(kills.lose_a_peer, victim=1, **denoiser)),
        Row("process 0 of 2 lost", partial(kills.lose_a_peer, victim=0, **denoiser)),
    ]  # fmt: skip
    rows += [
        Row(
            f"saved by {_several(before)}, resumed by {_several(after)}",
            partial(
                kills.change_the_number_of_processes,
                stage="ldm",
                before=before,
                after=after,
                rtol=1e-3,
            ),
        )
        for before, after in ((2, 1), (1, 2))
    ]
    return rows


def _several(num_processes: int) -> str:
    return "1 process" if num_processes == 1 else f"{num_processes} processes"


def attempt(row: Row, lab: Laboratory) -> Outcome:
    """Its outcome; what went wrong is one more trial, not passed."""
    started = time.monotonic()
    try:
        outcome = row.trial(lab)
    except PermissionError as error:
        outcome = Outcome(0, 0, f"skipped: {error}")
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        outcome = Outcome(1, 0, " ".join(str(error).split())[:300])
    seconds = time.monotonic() - started
    say(f"{row.fault}: {outcome.passed}/{outcome.trials} in {seconds:.0f} s; "
        f"{outcome.note}")  # fmt: skip
    return outcome


def table(outcomes: dict[str, Outcome]) -> str:
    """Markdown, with the date and the versions."""
    date = datetime.datetime.now(datetime.UTC).date()
    packages = ("jax", "orbax-checkpoint", "grain")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    machine = f"{os.cpu_count()} CPU cores, Linux {platform.machine()}"
    lines = [
        f"{date}, {machine}, Python {platform.python_version()}, {versions}.",
        "",
        "| fault | trials | passed | what was seen |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {fault} | {o.trials} | {o.passed} | {o.note} |"
        for fault, o in outcomes.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the rows, and put the table into docs/reliability.md if all of them ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows that hold this word")
    parser.add_argument("--folder", type=Path, help="where the runs are made and kept")
    options = parser.parse_args()
    # Trials in this very process are meant to warn.
    logging.getLogger("ldm_jax").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        lab = Laboratory(folder)
        rows = [row for row in all_rows() if options.only in row.fault]
        outcomes = {row.fault: attempt(row, lab) for row in rows}
    print(table(outcomes))
    if not options.only:
        _write_down(table(outcomes))
    if any(outcome.passed < outcome.trials for outcome in outcomes.values()):
        raise SystemExit(1)


def _write_down(text: str) -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    DOCUMENT.write_text(
        pattern.sub(lambda _: f"{BEGIN}\n{text}\n{END}", document), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
