"""Runs of train.py and the other commands, and what is left of them on the disk."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def script(name: str, *arguments: str) -> None:
    """Run one of the project's commands; stop with its exit code if it fails."""
    command = [sys.executable, str(ROOT / name), *arguments]
    result = subprocess.run(command, cwd=ROOT, check=False)
    if result.returncode:
        sys.exit(result.returncode)


def train(
    config: str, workdir: Path, steps: int | None = None, *overrides: str
) -> float:
    """Train `config` in `workdir`, or go on with what that holds of it.

    Args:
      config: a file under configs/, with the argument of `get_config` if it has one.
      steps: instead of the config's.

    Returns:
      Minutes, of earlier starts too.
    """
    log = workdir / "minutes.json"
    minutes = json.loads(log.read_text()) if log.is_file() else 0.0
    if not _is_trained(workdir, steps or _length(config)):
        started = time.monotonic()
        length = () if steps is None else _of_length(steps)
        flag = f"--config=configs/{config}"
        script("train.py", flag, f"--workdir={workdir}", *overrides, *length)
        minutes += (time.monotonic() - started) / 60
        log.write_text(f"{minutes:.2f}\n")
    return minutes


def _length(config: str) -> int:
    """Steps of a training of this config."""
    file, _, argument = config.partition(":")
    module = "configs." + file.removesuffix(".py").replace("/", ".")
    return importlib.import_module(module).get_config(argument).train.num_steps


def _of_length(steps: int) -> tuple[str, ...]:
    """Overrides for a training of so many steps, the last of which is evaluated."""
    return (
        f"--config.train.num_steps={steps}",
        f"--config.train.evaluate_every={steps}",
        f"--config.optimizer.schedule.decay_steps={steps}",
    )


def reuse_latents(source: Path, workdir: Path) -> None:
    """Let a run have the latents that another one has of the same pictures.

    They are taken only if they are of the same first stage, source and transform.
    """
    theirs, ours = source / "latents", workdir / "latents"
    if theirs.is_dir() and not ours.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        ours.symlink_to(theirs.resolve())


def last_values(workdir: Path) -> dict[str, float]:
    """The newest value of every metric of a run; none without a run."""
    path, values = workdir / "metrics.jsonl", {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        values |= json.loads(line)
    return values


def _is_trained(workdir: Path, steps: int) -> bool:
    values = last_values(workdir)
    is_evaluated = values.get("step", 0) >= steps and any("val/" in n for n in values)
    return is_evaluated and (workdir / "checkpoints" / str(steps)).is_dir()
