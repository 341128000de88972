"""Batches that can be asked for again while they are recent."""

from collections import deque
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

Batch = Mapping[str, np.ndarray]

NUM_KEPT = 3


class RecentBatches:
    """An iterator over host batches that remembers the last `NUM_KEPT` of them."""

    def __init__(self, batches: Any, *, first_step: int):
        """The first of `batches` is that of step `first_step + 1`; it has a `close`."""
        self._batches, self._step = batches, first_step
        self._kept: deque[tuple[int, Batch]] = deque(maxlen=NUM_KEPT)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        step = self._step + 1
        batch = self.get(step)
        if batch is None:
            batch = next(self._batches)
            self._kept.append((step, batch))
        self._step = step
        return batch

    def get(self, step: int) -> Batch | None:
        """The batch of a step if it is remembered."""
        return dict(self._kept).get(step)

    def rewind(self, step: int) -> None:
        """Go on after `step`, one of the last `NUM_KEPT` steps or the one before them."""
        self._step = step

    def close(self) -> None:
        """Close what gives the batches."""
        self._batches.close()
