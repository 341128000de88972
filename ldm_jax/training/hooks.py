"""What happens beside the steps: logs, checkpoints, previews, profiles.

A hook is a function `hook(step, state, metrics)`, called after every step with the number
of steps done; `every` thins it out.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ldm_jax.training import checkpoints
from ldm_jax.training.full_disk import is_full_disk
from ldm_jax.training.loop import Hook, Metrics
from ldm_jax.training.metrics import Console, Writer, check_applied, fetch
from ldm_jax.training.state import TrainState
from ldm_jax.training.throughput import Throughput

logger = logging.getLogger(__name__)


def every(n: int, hook: Hook, *, last_step: int | None = None) -> Hook:
    """Call `hook` at multiples of `n` (never if 0), and at `last_step` if given."""

    def thinned(step: int, state: TrainState, metrics: Metrics) -> None:
        if n > 0 and (step % n == 0 or step == last_step):
            hook(step, state, metrics)

    return thinned


def untimed(throughput: Throughput, hook: Hook) -> Hook:
    """Keep a slow hook out of images/s. Waits for the step, which does count."""

    def paused(step: int, state: TrainState, metrics: Metrics) -> None:
        jax.block_until_ready(state)
        with throughput.paused():
            hook(step, state, metrics)

    return paused


def unless_disk_full(hook: Hook) -> Hook:
    """Leave out what `hook` would write, with a warning, while the disk is full."""

    def spared(step: int, state: TrainState, metrics: Metrics) -> None:
        try:
            hook(step, state, metrics)
        except OSError as error:
            if not is_full_disk(error):
                raise
            logger.warning("WARNING: left out at step %d: %s", step, error)

    return spared


def progress(console: Console, throughput: Throughput) -> Hook:
    """Move the bar at every step; start the stopwatch once the first has compiled."""

    def hook(step: int, state: TrainState, metrics: Metrics) -> None:
        if not throughput.is_running:
            jax.block_until_ready(state)
            throughput.start(step)
        console.tick(step)

    return hook


def log(writers: Sequence[Writer], throughput: Throughput) -> Hook:
    """Write the step's metrics with images/s and MFU.

    The values are those of this very step, not a mean since the last log, so that a
    resumed run logs the same numbers.
    """

    def hook(step: int, state: TrainState, metrics: Metrics) -> None:
        check_applied(step, metrics)
        scalars = {**fetch(metrics), **throughput.measure(step)}
        for writer in writers:
            writer.write_scalars(step, scalars)

    return hook


def save_checkpoint(
    manager: checkpoints.Manager, meta: Mapping[str, Any] | None = None
) -> Hook:
    """Start a checkpoint of this step, unless its loss or gradient ends the run.

    A full disk is a warning: the next one is another try.
    """

    def hook(step: int, state: TrainState, metrics: Metrics) -> None:
        check_applied(step, metrics)
        checkpoints.save_if_possible(manager, state, meta)

    return hook


def preview(
    draw_fn: Callable[[int, TrainState], UInt8[np.ndarray, "h w 3"]],
    directory: str | Path,
    writers: Sequence[Writer] = (),
) -> Hook:
    """Write `draw_fn(step, state)` to `directory/step_<step>.png` and to `writers`.

    Every process draws, for drawing may be a computation over all devices; process 0
    writes.
    """

    def hook(step: int, state: TrainState, metrics: Metrics) -> None:
        pixels = draw_fn(step, state)
        if jax.process_index() != 0:
            return
        path = Path(directory) / f"step_{step}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        Image.fromarray(pixels).save(partial, format="png")
        os.replace(partial, path)
        for writer in writers:
            writer.write_image(step, "preview", pixels)

    return hook


def profile(directory: str | Path, *, first_step: int, num_steps: int) -> Hook:
    """Trace `num_steps` steps that follow `first_step`, for TensorBoard or XProf."""

    def hook(step: int, state: TrainState, metrics: Metrics) -> None:
        if step == first_step:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(directory))
        elif step == first_step + num_steps:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()

    return hook
