"""What a compiled program's text says: collectives, and the compiler's cycles.

XLA's cost analysis takes the body of a loop once, so both are counted here, each
computation as often as it runs.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator

_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4,
    "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8,
}  # fmt: skip
KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)

# On TPUs an all-reduce of which each device keeps a slice is one fusion of this name.
_FUSED_REDUCE_SCATTER = "all-reduce-scatter"

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(
    r"branch_computations=\{([^}]*)\}|"
    r"true_computation=%?([\w.\-]+), false_computation=%?([\w.\-]+)"
)
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Collective:
    """Exchanges of one kind in one call of a program.

    Attributes:
      kind: of `KINDS`.
      count: how many.
      num_bytes: of the whole arrays that a device ends with (or starts from, for a
        reduce-scatter).
      sent_bytes: what each device sends if they go around a ring, the least there is.
    """

    kind: str
    count: int
    num_bytes: int
    sent_bytes: int


def collectives(text: str, num_devices: int) -> list[Collective]:
    """The exchanges between devices in the text of a compiled program, by kind.

    Args:
      num_devices: of groups that the text does not spell out.
    """
    computations = _parse(text)
    found: dict[tuple[str, str], tuple[float, int, int]] = {}
    for name, times in _runs(computations).items():
        for i, line in enumerate(computations[name]):
            match = _COLLECTIVE.search(line)
            if match is None:
                continue
            kind, size = match[2], _result_bytes(match)
            group = _group_size(line, num_devices)
            if kind == "reduce-scatter":
                size *= group
            elif name.startswith(_FUSED_REDUCE_SCATTER):
                kind = "reduce-scatter"
            # One exchange may be spread over several fusions, under one channel.
            channel = re.search(r"channel_id=(\d+)", line)
            key = (kind, channel[1] if channel else f"{name}:{i}")
            if key not in found or size > found[key][1]:
                found[key] = (times, size, group)
    totals: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0])
    for (kind, _), (times, size, group) in found.items():
        rounds = {"all-reduce": 2, "collective-permute": group / max(group - 1, 1)}
        sent = size * rounds.get(kind, 1) * (group - 1) / group
        for i, value in enumerate((1, size, sent)):
            totals[kind][i] += times * value
    return [
        Collective(kind, *(round(value) for value in totals[kind]))
        for kind in KINDS
        if kind in totals
    ]


def cycles(text: str) -> int:
    """The TPU compiler's estimate of a call's cycles; 0 if it made none.

    Loops count as often as they run. Exchanges between devices and copies from and to
    memory that run beside the computation are not in it.
    """
    computations = _parse(text)
    total = 0.0
    for name, times in _runs(computations).items():
        found = (_CYCLES.findall(line) for line in computations[name])
        total += times * sum(int(number) for numbers in found for number in numbers)
    return round(total)


def _parse(text: str) -> dict[str, list[str]]:
    """Lines of each computation; that of the entry is "ENTRY"."""
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            lines = computations.setdefault("ENTRY" if header[1] else header[2], [])
        elif line.startswith(" "):
            lines.append(line)
    return computations


def _runs(computations: dict[str, list[str]]) -> dict[str, float]:
    """How often each computation runs in one call; a loop of unknown length, once."""
    runs: dict[str, float] = defaultdict(float)

    def visit(name: str, times: float) -> None:
        runs[name] += times
        for line in computations[name]:
            for called, repeats in _calls(line, computations):
                if called in computations:
                    visit(called, times * repeats)

    visit("ENTRY", 1.0)
    return runs


def _calls(
    line: str, computations: dict[str, list[str]]
) -> Iterator[tuple[str, float]]:
    """The computations that an instruction runs, and how often."""
    if loop := _WHILE.search(line):
        trips = _TRIPS.search(line)
        yield loop[2], int(trips[1]) if trips else _trips(computations.get(loop[1], []))
    elif branches := _BRANCHES.search(line):
        names = re.findall(r"[\w.\-]+", " ".join(filter(None, branches.groups())))
        yield max(names, key=lambda name: len(computations.get(name, []))), 1
    else:
        for name in _CALLED.findall(line):
            yield name, 1


def _trips(condition: list[str]) -> int:
    """Of a loop that counts from 0 to a constant; 1 if it is of another kind."""
    limits = [re.search(r" s32\[\][^=]* constant\((\d+)\)", line) for line in condition]
    found = [int(match[1]) for match in limits if match]
    return found[0] if len(found) == 1 else 1


def _result_bytes(match: re.Match) -> int:
    """Bytes of the arrays that a collective gives one device."""
    sizes = [
        _BYTES.get(dtype, 4) * math.prod(int(n) for n in shape.split(",") if n)
        for dtype, shape in _SHAPE.findall(match[1])
    ]
    if not match[3] or match[2] == "all-reduce":
        return sum(sizes)
    return max(sizes)  # a started one gives operands, results and flags


def _group_size(line: str, num_devices: int) -> int:
    """Devices that exchange with one another."""
    if axes := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
        names = re.findall(r"'(\w+)'", axes[2])
        return math.prod(int(sizes[name]) for name in names)
    if tiles := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(tiles[1])
    if groups := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(groups[1].split(","))
    return num_devices
