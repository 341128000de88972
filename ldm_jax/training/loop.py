"""The training loop: a step function, data, and hooks."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils

from ldm_jax.training.metrics import check_finite
from ldm_jax.training.state import TrainState

logger = logging.getLogger(__name__)

Metrics = Mapping[str, jax.Array]
Batch = Mapping[str, jax.Array]
StepFn = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Hook = Callable[[int, TrainState, Metrics], None]


def run(
    state: TrainState,
    data: Iterable[Batch],
    step_fn: StepFn,
    hooks: Sequence[Hook],
    num_steps: int,
    *,
    should_stop: Callable[[int], bool] = lambda step: False,
) -> TrainState:
    """Train from `state.step` to `num_steps`, or until `should_stop(step)`.

    Args:
      data: batches on the devices, the first one that of step `state.step + 1`.
      step_fn: the jitted step; it may donate its state.
      hooks: called as `hook(step, state, metrics)` after every step, `step` being the
        number of steps done. They must not keep the state.

    Returns:
      The last state; it is the caller's to save.

    Raises:
      DivergedError: once a loss or gradient norm is not finite: at the latest after the
        next step, before its hooks.
    """
    batches = iter(data)
    pending: tuple[int, Metrics] | None = None
    for step in range(int(state.step) + 1, num_steps + 1):
        state, metrics = step_fn(state, next(batches))
        # One step behind: the device always has the next step to work on, and the host
        # never runs further ahead than that.
        if pending is not None:
            check_finite(*pending)
        pending = step, metrics
        for hook in hooks:
            hook(step, state, metrics)
        if should_stop(step):
            break
    if pending is not None:
        check_finite(*pending)
    return state


@contextmanager
def stop_on_signal() -> Iterator[Callable[[int], bool]]:
    """A `should_stop` that turns true after SIGTERM or Ctrl-C, at the end of a step.

    A second Ctrl-C, or a second signal of a single process, has its usual effect at once.
    With several processes it is enough that one of them gets the signal: JAX's runtime
    tells the others, and all of them stop at the step that they agree on, so all must ask
    after every step.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    requested = threading.Event()
    is_alone = jax.process_count() == 1
    handled = (signal.SIGTERM, signal.SIGINT) if is_alone else (signal.SIGINT,)
    previous = {}

    def restore() -> None:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    def on_signal(signum: int, frame: object) -> None:
        restore()
        if signum == signal.SIGINT:
            logger.warning(
                "stopping after this step; press Ctrl-C again to stop at once"
            )
        if is_alone:
            requested.set()
        else:  # the runtime listens to this one
            os.kill(os.getpid(), signal.SIGTERM)

    for signum in handled:
        previous[signum] = signal.signal(signum, on_signal)
    try:
        if is_alone:
            yield lambda step: requested.is_set()
        else:
            yield multihost_utils.reached_preemption_sync_point
    finally:
        restore()
