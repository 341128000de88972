"""What is compared, and the table of results."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.timing import Call


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where and how both sides compute.

    Attributes:
      device: "cpu" or "gpu", for jax and torch alike.
      dtype: of the compute, "float32" or "bfloat16".
      references: which of REFERENCES to time.
      seconds: of rounds for each row.
      clock: "wall", or "cpu" for the CPU seconds of all threads: on one core, by
        `taskset -c 0`, they tell sides apart even beside other work.
    """

    device: str = "cpu"
    dtype: str = "float32"
    references: tuple[str, ...] = ("eager",)
    seconds: float = 10.0
    clock: str = "wall"


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
# torch as it comes, in memory order NHWC, and compiled in that order.
REFERENCES = ("eager", "channels_last", "compile")


@dataclasses.dataclass(frozen=True)
class Sides:
    """One piece of work, done by each side; a call returns when it is done.

    Attributes:
      ours: the call of this library.
      references: the others' calls, by name.
      amount: how much of `unit` a call does.
      unit: what is counted, such as "images".
      peak_bytes: device memory of our compiled program, if it is known.
      compile_seconds: what compiling it took, from a cache or not.
      clock: of the seconds; None for the setting's.
    """

    ours: Call
    references: dict[str, Call]
    amount: float = 1.0
    unit: str = "calls"
    peak_bytes: int | None = None
    compile_seconds: float | None = None
    clock: Callable[[], float] | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """A row to measure.

    Attributes:
      name: of the row.
      make: builds both sides.
      gigabytes: free memory that both sides together need.
    """

    name: str
    make: Callable[[Setting], Sides]
    gigabytes: float = 1.0


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table; `skipped` says why there are no figures."""

    name: str
    reference: str = ""
    ours: float = math.nan  # seconds a call
    theirs: float = math.nan
    rate: float = math.nan  # of ours, `unit` a second
    unit: str = ""
    peak_bytes: int | None = None
    compile_seconds: float | None = None
    skipped: str = ""

    @property
    def ratio(self) -> float:
        """How many times as fast as the reference we are; above 1 is faster."""
        return self.theirs / self.ours


def rows_of(
    name: str, sides: Sides, seconds: dict[str, float], ours: str = "ours"
) -> list[Row]:
    """One row for each reference, or one of ours alone; `seconds` a call by side."""
    about = {
        "ours": seconds[ours],
        "rate": sides.amount / seconds[ours],
        "unit": sides.unit,
        "peak_bytes": sides.peak_bytes,
        "compile_seconds": sides.compile_seconds,
    }
    if not sides.references:
        return [Row(name, **about)]
    return [
        Row(name, reference, theirs=seconds[reference], **about)
        for reference in sides.references
    ]


HEADER = ("", "ours", "reference", "", "ratio", "rate", "peak", "compile")


def table(rows: Sequence[Row]) -> str:
    """Markdown, aligned."""
    lines = [HEADER, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    text = [_line(line, widths) for line in lines]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def write_json(path: Path, machine: dict[str, Any], rows: Sequence[Row]) -> None:
    """Seconds and bytes of every row; a figure that there is not is null."""
    listed = []
    for row in rows:
        fields = dataclasses.asdict(row) | {"ratio": row.ratio}
        listed.append({k: None if _is_nan(v) else v for k, v in fields.items()})
    path.write_text(json.dumps({"machine": machine, "rows": listed}, indent=2) + "\n")


def _cells(row: Row) -> tuple[str, ...]:
    if row.skipped:
        return row.name, "skipped", row.skipped, "", "", "", "", ""
    has_reference = not _is_nan(row.theirs)
    return (
        row.name,
        _duration(row.ours),
        row.reference,
        _duration(row.theirs) if has_reference else "",
        f"{row.ratio:.2f}" if has_reference else "",
        f"{row.rate:.3g} {row.unit}/s",
        "" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.0f} MiB",
        "" if row.compile_seconds is None else f"{row.compile_seconds:.1f} s",
    )


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "| " + " | ".join(padded) + " |"
