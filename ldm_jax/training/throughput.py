"""Images per second and model FLOP/s utilisation (MFU)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Dense bfloat16 FLOP/s of one jax device, from the vendors' data sheets; the first entry
# whose key occurs in `device_kind` (lower case) counts. Older TPUs show each core.
PEAK_FLOPS = {
    "b200": 2250e12,
    "h200": 989e12,
    "h100 pcie": 756e12,
    "h100": 989e12,
    "a100": 312e12,
    "a10g": 70e12,
    "l40s": 362e12,
    "l4": 121e12,
    "t4": 65e12,
    "v100": 125e12,
    "rtx 4090": 165e12,
    "rtx 3090": 71e12,
    "tpu v6": 918e12,
    "tpu v5p": 459e12,
    "tpu v5 lite": 197e12,
    "tpu v5e": 197e12,
    "tpu v5": 459e12,
    "tpu v4": 275e12,
    "tpu v3": 61.5e12,
    "tpu v2": 22.5e12,
}


def peak_flops(device: Any) -> float | None:
    """A device's bfloat16 peak, or None if it is not in the table (CPUs never are)."""
    kind = device.device_kind.lower()
    return next((peak for name, peak in PEAK_FLOPS.items() if name in kind), None)


class Throughput:
    """A stopwatch over steps, read at log steps.

    Args:
      batch_size: images of a whole step, over all devices and processes.
      flops_per_step: of one device, see `compilation.flops_per_step`.
      peak: FLOP/s of one device; MFU is against bfloat16's peak in float32 runs too.
      clock: seconds.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        flops_per_step: float | None = None,
        peak: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._batch_size = batch_size
        self._flops_per_step, self._peak = flops_per_step, peak
        self._clock = clock
        self._mark: tuple[float, int] | None = None

    @property
    def is_running(self) -> bool:
        """Has `start` been called?"""
        return self._mark is not None

    def start(self, step: int) -> None:
        """Count from the end of `step`: the first one, since it compiled."""
        self._mark = self._clock(), step

    def measure(self, step: int) -> dict[str, float | None]:
        """Rates since the last mark, which moves to `step`; None where unknown."""
        now, rate, mfu = self._clock(), None, None
        if self._mark is not None and step > self._mark[1] and now > self._mark[0]:
            rate = (step - self._mark[1]) / (now - self._mark[0])
        self._mark = now, step
        if rate is not None and self._flops_per_step and self._peak:
            mfu = rate * self._flops_per_step / self._peak
        images_per_sec = None if rate is None else rate * self._batch_size
        return {"images_per_sec": images_per_sec, "mfu": mfu}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what happens inside: a preview, a checkpoint."""
        began = self._clock()
        yield
        if self._mark is not None:
            seconds, step = self._mark
            self._mark = seconds + self._clock() - began, step
