"""A step that is not finite changes nothing; one that is waits for no host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from ldm_jax.training import loop
from ldm_jax.training.guarded_step import GuardedStep, guard, new_tally
from ldm_jax.trees import flatten


class Watched:
    """A scalar on a device that notes when the host asks for it."""

    def __init__(self, value, name, events):
        self._value, self._name, self._events = value, name, events

    def __array__(self, dtype=None, copy=None):
        self._events.append(("read", self._name))
        return np.asarray(self._value)

    def __float__(self):
        return float(np.asarray(self))


def toy_step(events):
    guarded = jax.jit(guard(toy.step_fn), donate_argnums=0)
    numbers = iter(range(1, 99))

    def compiled(state, frozen, batch, tally):
        state, metrics, tally = guarded(state, frozen, batch, tally)
        step = next(numbers)
        events.append(("dispatched", step))
        return state, {k: Watched(v, step, events) for k, v in metrics.items()}, tally

    return GuardedStep(
        *(compiled, toy.FROZEN, jax.device_put(new_tally())),
        first_step=0,
        shows_skipped=False,
    )


def test_healthy_steps_are_read_only_once_the_next_is_dispatched():
    events = []
    step = toy_step(events)
    batches = (sharding_free(toy.host_batch(i)) for i in range(1, 7))
    loop.run(toy.new_state(), batches, step, [], 6)
    order = list(dict.fromkeys(events))
    expected = [("dispatched", 1)]
    for number in range(2, 7):
        expected += [("dispatched", number), ("read", number - 1)]
    assert order == [*expected, ("read", 6)]


def sharding_free(batch):
    return {name: jnp.asarray(x) for name, x in batch.items()}


@pytest.mark.parametrize("objective", ["generator", "critic"])
def test_either_objective_holds_the_whole_state(objective):
    """The generator's update waits for the critic's gradient."""
    state = toy.new_state()
    before = jax.device_get(state)
    step = jax.jit(guard(toy.step_fn))
    batch = sharding_free(toy.host_batch(1))
    good, _, tally = step(state, toy.FROZEN, batch, new_tally())
    assert int(tally.skipped) == 0
    plain, _ = jax.jit(toy.step_fn)(state, toy.FROZEN, batch)
    for name, value in flatten(good).items():
        np.testing.assert_allclose(value, flatten(plain)[name], rtol=1e-6, atol=1e-7)
    if objective == "generator":
        bad = {
            **batch,
            "y": batch["y"].at[3, 1].set(jnp.nan),
        }  # the critic sees y[:, 0]
    else:
        kernel = state.params["critic"]["score"]["kernel"]
        state.params["critic"]["score"]["kernel"] = kernel.at[0].set(jnp.inf)
        before, bad = jax.device_get(state), batch
    held, metrics, tally = step(state, toy.FROZEN, bad, new_tally())
    assert not np.isfinite(metrics[f"{objective}/loss"])
    for name in ("params", "ema", "opt_state", "collections"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(held, name), getattr(before, name)
        )
    assert int(held.step) == 1 and int(tally.skipped) == 1
    # Nothing moves until the host has taken notice.
    again, _, tally = step(held, toy.FROZEN, batch, tally)
    jax.tree.map(np.testing.assert_array_equal, again.params, before.params)
    assert int(tally.skipped) == 1
