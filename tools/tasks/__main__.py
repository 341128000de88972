"""`make tasks`: train every task of the paper on emoji, measure it, and draw it.

python -m tools.tasks --workdir=runs [--only=text,layout] [--steps=100]

For each task of configs/emoji: trains it, and the same denoiser without its condition for
as long on the same pictures; compares the losses on held-out pictures with the same noise;
draws held-out conditions, by sample.py and for runs/tasks/<task>.png; measures whether the
drawings follow them. Where a condition can be left out, the task's own model is measured
without it as well. Writes runs/tasks/table.md, and exits with 1 if a condition does not
lower the loss by its margin (`tools.tasks.table`), or changes nothing. What is trained
already is not trained again, and the table shows what earlier calls measured as well.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Before jax is imported, here and in the commands: programs are compiled once.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "ldm_jax" / "compiled")
)

from tools.tasks.table import TASKS, Task
from tools.tasks.trainings import (
    last_values,
    reuse_latents,
    script,
    train,
)

LOSS = "val/loss_ema"
Result = dict[str, Any]
COLUMNS = ("without", "scale 1", "scale 3", "first stage")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=Path("runs"))
    parser.add_argument("--only", default=",".join(TASKS), help="Tasks, by commas.")
    parser.add_argument("--steps", type=int, help="Of each training; the configs'.")
    parser.add_argument("--num_pictures", type=int, default=64, help="To measure by.")
    parser.add_argument("--sampling_steps", type=int, default=25)
    args = parser.parse_args()
    chosen = args.only.split(",")
    if unknown := set(chosen) - set(TASKS):
        parser.error(f"no task {min(unknown)!r}: choose of {', '.join(TASKS)}")
    started = time.monotonic()
    workdir = args.workdir.resolve()
    train("autoencoder/emoji_kl_f4.py", workdir / "emoji_kl_f4")
    index = build_index(workdir / "emoji_index")
    for name in chosen:
        losses = compare(name, TASKS[name], workdir, index, args.steps)
        print(f"{name}: {losses}", flush=True)
        result = losses | look(name, TASKS[name], workdir, index, args)
        path = workdir / "tasks" / name / "results.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
    results = known_results(workdir)
    table = as_markdown(results)
    (workdir / "tasks" / "table.md").write_text(table)
    print(table)
    print(f"{(time.monotonic() - started) / 60:.1f} minutes")
    if failed := [name for name in chosen if not is_used(TASKS[name], results[name])]:
        sys.exit(f"the condition does too little in {', '.join(failed)}")


def known_results(workdir: Path) -> dict[str, Result]:
    """Of the tasks that have been measured, now or before."""
    paths = {name: workdir / "tasks" / name / "results.json" for name in TASKS}
    return {n: json.loads(p.read_text()) for n, p in paths.items() if p.is_file()}


def build_index(folder: Path) -> Path:
    """The embeddings of the training pictures: neighbours, and categories to tell."""
    if not folder.exists():
        script(
            "tools/build_retrieval_index.py",
            "--source=emoji64",
            "--network=efficientnet_lite0",
            "--image_size=64",
            f"--output={folder}",
        )
    return folder


def compare(
    name: str, task: Task, workdir: Path, index: Path, steps: int | None
) -> Result:
    """Train a task and its ablation; their losses on held-out pictures, and minutes."""
    ours, ablation = workdir / "tasks" / name, ablation_of(task, workdir)
    first_stage = f"--config.autoencoder.checkpoint={workdir / 'emoji_kl_f4'}"
    unconditional = f"emoji/unconditional.py:{task.unconditional}"
    without_minutes = train(unconditional, ablation, steps, first_stage)
    own = [f"--config.data.neighbors={index}"] if name == "retrieval" else []
    if task.is_cached:
        reuse_latents(ablation, ours)
    minutes = train(f"emoji/{name}.py", ours, steps, first_stage, *own)
    return {
        "steps": last_values(ours)["step"],
        "loss": last_values(ours)[LOSS],
        "loss without": last_values(ablation)[LOSS],
        "minutes": minutes,
        "minutes without": without_minutes,
    }


def look(name: str, task: Task, workdir: Path, index: Path, args) -> Result:
    """Draw and measure a trained task; see `measuring.measure`."""
    from tools.tasks import losses, measuring
    from tools.tasks.statistics import Categories

    settings = measuring.Settings(args.num_pictures, args.sampling_steps)
    ours, categories = workdir / "tasks" / name, Categories(index)
    measured, change = measuring.measure(
        task,
        ours,
        ablation_of(task, workdir),
        categories,
        workdir / "tasks" / f"{name}.png",
        settings,
    )
    measuring.sample_command(task, ours, ours / "command", settings)
    if name == "text":
        colours = measuring.colours(ours, settings)
        measured["colour as asked"] = colours
    own = losses.with_and_without(ours, args.num_pictures) if task.is_guided else {}
    return {"statistics": measured, "change": change, "own losses": own}


def ablation_of(task: Task, workdir: Path) -> Path:
    """The run of the same denoiser without a condition."""
    return workdir / "tasks" / f"unconditional_{task.unconditional}"


def is_used(task: Task, result: Mapping[str, Any]) -> bool:
    """Whether the condition lowers the loss by the task's margin, and changes pictures."""
    gain = 1 - result["loss"] / result["loss without"]
    return gain > task.margin and result["change"] > 0


def as_markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Two tables: losses, and what was drawn."""
    lines = [
        (
            "| task | steps | held-out loss | without the condition | difference | "
            "the same model, told another's / nothing | minutes |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        gain = 1 - row["loss"] / row["loss without"]
        lines.append(
            f"| {name} | {row['steps']} | {row['loss']:.4f} | "
            f"{row['loss without']:.4f} | {-gain:.1%} | {_own(row.get('own losses'))} | "
            f"{row['minutes']:.1f} + {row['minutes without']:.1f} |"
        )
    lines += [
        "",
        (
            "| task | what follows the condition | unconditional | sample | "
            "guidance 3 | first stage | other | another condition changes |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        for statistic, values in row["statistics"].items():
            numbers = [_number(values.get(column)) for column in COLUMNS]
            others = set(values) - set(COLUMNS)
            numbers.append(", ".join(f"{x}: {_number(values[x])}" for x in others))
            cells = " | ".join((name, statistic, *numbers))
            lines.append(f"| {cells} | {row['change']:.1f} levels |")
    return "\n".join(lines) + "\n"


def _own(losses: Mapping[str, float] | None) -> str:
    """How much more a model's loss is with another condition, and with none at all."""
    if not losses:
        return ""
    changes = [losses[name] / losses["given"] - 1 for name in ("another's", "null")]
    return " / ".join(f"{change:+.1%}" for change in changes)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main()
