"""Calls in turn, so that whatever else the machine does falls on all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Call = Callable[[], Any]


def alternate(
    calls: Mapping[str, Call],
    *,
    seconds: float,
    min_rounds: int = 3,
    max_rounds: int = 50,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call, round by round, in an order that turns about.

    Args:
      calls: return when their work is done. Each is called once before the clock runs.
      seconds: rounds go on for that long, at least `min_rounds`, at most `max_rounds`.
      clock: in seconds.
    """
    for call in calls.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    names, start = list(calls), clock()
    for index in range(max_rounds):
        if index >= min_rounds and clock() - start > seconds:
            break
        for name in names if index % 2 == 0 else reversed(names):
            began = clock()
            calls[name]()
            taken[name].append(clock() - began)
    return taken


def medians(taken: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each."""
    return {name: statistics.median(values) for name, values in taken.items()}
