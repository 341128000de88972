"""A step that changes nothing if its loss or gradient is not finite.

The decision is taken on the device, so that the host, which looks one step later, still
finds the state from before. From a step that was held on, every step is held until the
host has taken notice: what it then reads is the state of that very moment.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.training.metrics import SKIPPED, watched
from ldm_jax.training.state import TrainState

PyTree = Any
Metrics = Mapping[str, jax.Array]
Batch = Mapping[str, jax.Array]
StepFn = Callable[[TrainState, PyTree, Batch], tuple[TrainState, Metrics]]

HELD = ("params", "ema", "opt_state", "collections")


class Tally(NamedTuple):
    """int32 scalars that pass from step to step on the device.

    Attributes:
      skipped: steps whose update was left out.
      noticed: those of them that the host knows of.
    """

    skipped: jax.Array
    noticed: jax.Array


def guard(step_fn: StepFn) -> Callable[..., tuple[TrainState, Metrics, Tally]]:
    """`(state, frozen, batch, tally) -> (state, metrics, tally)`, pure, not jitted.

    `state.step` counts every step, and nothing else of the state changes in a step that
    is held. The metric `skipped_steps` is the tally's.
    """

    def guarded(
        state: TrainState, frozen: PyTree, batch: Batch, tally: Tally
    ) -> tuple[TrainState, Metrics, Tally]:
        new, metrics = step_fn(state, frozen, batch)
        is_finite = jnp.all(
            jnp.stack([jnp.isfinite(x) for x in watched(metrics).values()])
        )
        is_free = tally.skipped == tally.noticed
        is_applied = is_finite & is_free

        def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(is_applied, new, old)

        kept = {
            name: jax.tree.map(chosen, getattr(new, name), getattr(state, name))
            for name in HELD
        }
        skipped = tally.skipped + (is_free & ~is_finite).astype(jnp.int32)
        metrics = {**metrics, SKIPPED: skipped.astype(jnp.float32)}
        return (
            dataclasses.replace(new, **kept),
            metrics,
            tally._replace(skipped=skipped),
        )

    return guarded


def new_tally(skipped: int = 0) -> Tally:
    """On the host: `skipped` steps, all of them noticed."""
    return Tally(np.int32(skipped), np.int32(skipped))  # pyright: ignore


class GuardedStep:
    """A compiled `guard`ed step as the loop calls it, `(state, batch)`.

    Attributes:
      state: the newest, which the next call donates.
      metrics: of the last two steps, by step.
    """

    def __init__(
        self,
        compiled: Callable[..., tuple[TrainState, Metrics, Tally]],
        frozen: PyTree,
        tally: Tally,
        *,
        first_step: int,
        shows_skipped: bool,
    ):
        """`tally` is laid out on the devices; `first_step` steps are done.

        `shows_skipped` leaves the metric of that name in, which tells the hooks that a
        step may be left out (`metrics.check_applied`).
        """
        self._compiled, self._frozen, self._tally = compiled, frozen, tally
        self._step, self._shows_skipped = first_step, shows_skipped
        self.state: TrainState | None = None
        self.metrics: dict[int, Metrics] = {}

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        self.state, metrics, self._tally = self._compiled(
            state, self._frozen, batch, self._tally
        )
        if not self._shows_skipped:
            metrics = {k: v for k, v in metrics.items() if k != SKIPPED}
        self._step += 1
        self.metrics = {
            step: kept for step, kept in self.metrics.items() if step == self._step - 1
        }
        self.metrics[self._step] = metrics
        return self.state, metrics

    def state_at(self, step: int) -> TrainState:
        """The held state, as that of `step` steps done."""
        assert self.state is not None
        place = self.state.step.sharding
        return dataclasses.replace(
            self.state, step=jax.device_put(np.int32(step), place)
        )

    def go_on(self, step: int) -> TrainState:
        """Take notice of what was held; the state to go on from, of `step` steps done."""
        self._step = step
        self._tally = Tally(self._tally.skipped, self._tally.skipped)
        return self.state_at(step)
