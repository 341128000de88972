"""Time this library against torch on this machine.

python -m benchmarks --suite=cpu [--rows=U-Net] [--references=eager,channels_last]
taskset -c 0 python -m benchmarks --clock=cpu     # one core, beside other work
python -m benchmarks --suite=gpu --device=gpu --dtype=bfloat16 --references=compile
python -m benchmarks.growth

Rows alternate call by call between both sides; figures are medians. What does not fit the
memory is skipped with the reason. The references need torch, diffusers and transformers.
"""

import argparse
import gc
import os
import re
import sys
from pathlib import Path

from benchmarks.rows import (
    CLOCKS,
    REFERENCES,
    Case,
    Row,
    Setting,
    rows_of,
    table,
    write_json,
)
from benchmarks.timing import alternate, medians

DTYPES = ("float32", "bfloat16")


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write what is asked for."""
    options = _parser().parse_args(argv)
    references = tuple(name for name in options.references.split(",") if name)
    unknown = set(references) - set(REFERENCES)
    if unknown:
        sys.exit(
            f"error: --references={options.references}: there is no {min(unknown)!r}, "
            f"choose of {', '.join(REFERENCES)}"
        )
    _prepare(options.device)
    from benchmarks import machine
    from benchmarks.suites import SUITES

    setting = Setting(
        options.device, options.dtype, references, options.seconds, options.clock
    )
    about = machine.describe()
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    rows: list[Row] = []
    for case in SUITES[options.suite]():
        if re.search(options.rows, case.name):
            rows += measure(case, setting)
            print("\n".join(table(rows).splitlines()[-1:]), flush=True)
    print("\n" + table(rows))
    if options.json:
        write_json(options.json, about, rows)


def measure(case: Case, setting: Setting) -> list[Row]:
    """The rows of one case; one that says why, if it cannot be measured here."""
    from benchmarks.machine import free_gigabytes

    gc.collect()  # what the case before held
    free = free_gigabytes()
    if free < case.gigabytes:
        reason = f"needs {case.gigabytes:.0f} GB, {free:.0f} are free"
        return [Row(case.name, skipped=reason)]
    try:
        sides = case.make(setting)
        calls = {"ours": sides.ours, **sides.references}
        clock = sides.clock or CLOCKS[setting.clock]
        taken = alternate(calls, seconds=setting.seconds, clock=clock)
    except (ImportError, FileNotFoundError, MemoryError) as error:
        return [Row(case.name, skipped=str(error).splitlines()[0])]
    return rows_of(case.name, sides, medians(taken))


def _prepare(device: str) -> None:
    """What must be set before jax is imported."""
    if device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    # Both sides share the device's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(len(os.sched_getaffinity(0)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--suite", choices=("cpu", "gpu", "tiny"), default="cpu")
    parser.add_argument("--rows", default="", help="a pattern that row names contain")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument(
        "--references", default="eager", help=f"of {','.join(REFERENCES)}; '' for none"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


if __name__ == "__main__":
    main()
