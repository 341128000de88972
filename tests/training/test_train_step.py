"""The step: it learns, accumulates, and touches only what it should."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from ldm_jax.training.state import create_state
from ldm_jax.training.step import train_step
from ldm_jax.training.task import Aux, Objective, Task


@pytest.fixture(scope="module")
def history():
    """(states, metrics) of 60 steps."""
    step = jax.jit(toy.step_fn)
    states, metrics = [toy.new_state()], []
    for index in range(60):
        state, values = step(states[-1], toy.FROZEN, toy.host_batch(index + 1))
        states.append(state)
        metrics.append({name: float(value) for name, value in values.items()})
    return states, metrics


def test_losses_of_both_objectives_fall(history):
    _, metrics = history
    for name in ("generator/loss", "critic/loss"):
        first = np.mean([row[name] for row in metrics[:5]])
        last = np.mean([row[name] for row in metrics[-5:]])
        assert last < 0.7 * first, name


def test_metrics_are_named_by_objective(history):
    row = history[1][0]
    assert row.keys() == {
        *("loss", "generator/loss", "generator/error", "generator/grad_norm"),
        *("critic/loss", "critic/grad_norm"),
    }
    assert row["loss"] == row["generator/loss"] == row["generator/error"]


def test_step_counts_and_batch_statistics_move(history):
    states, _ = history
    assert int(states[-1].step) == 60
    before, after = (s.collections["critic"]["batch_stats"] for s in states[:2])
    assert not np.allclose(before["norm"]["mean"], after["norm"]["mean"])


def test_ema_follows_the_reference_ramp_once_per_step(history):
    states, _ = history

    def leaf(tree):
        return np.asarray(tree["generator"]["out"]["kernel"], np.float64)

    average = leaf(states[0].params)
    for n, state in enumerate(states[1:], start=1):
        decay = min(0.9999, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * leaf(state.params)
    np.testing.assert_allclose(leaf(states[-1].ema), average, rtol=1e-4, atol=1e-6)
    assert set(states[-1].ema) == {"generator"}


def test_an_objective_trains_only_its_groups():
    task = Task({"generator": toy.TASK.objectives["generator"]})
    state = toy.new_state()
    step = functools.partial(
        train_step, task=task, optimizers=toy.OPTIMIZERS, ema=None, key=toy.KEY
    )
    new, _ = jax.jit(step)(state.replace(ema=None), toy.FROZEN, toy.host_batch(1))
    jax.tree.map(
        np.testing.assert_array_equal, new.params["critic"], state.params["critic"]
    )
    old, trained = (s.params["generator"]["out"]["kernel"] for s in (state, new))
    assert not np.allclose(old, trained)


def linear_task():
    """A deterministic mean-squared error, which microbatches cannot change."""

    def loss(params, collections, frozen, batch, step, key):
        error = jnp.mean((batch["x"] @ params["map"] - batch["y"]) ** 2)
        count = collections["count"] + 1
        return error, Aux({"error": error}, {"count": count})

    return Task({"fit": Objective(("map",), loss)})


@pytest.mark.parametrize("num", [2, 4])
def test_grad_accumulation_equals_the_big_batch(num):
    task, optimizers = linear_task(), {"fit": optax.adam(1e-2)}
    state = create_state(
        {"map": jnp.ones((4, 2))},
        task=task,
        optimizers=optimizers,
        collections={"count": jnp.int32(0)},
    )
    step = functools.partial(
        train_step, task=task, optimizers=optimizers, ema=None, key=toy.KEY
    )
    whole, metrics = step(state, None, toy.host_batch(1))
    split, split_metrics = step(state, None, toy.host_batch(1), grad_accumulation=num)
    np.testing.assert_allclose(whole.params["map"], split.params["map"], rtol=1e-6)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, split_metrics[name], rtol=1e-5, err_msg=name)
    assert int(whole.collections["count"]) == 1
    assert int(split.collections["count"]) == num  # each microbatch saw the last's
    assert int(split.step) == 1


def test_microbatches_draw_different_noise():
    def loss(params, collections, frozen, batch, step, key):
        return params["w"] * 0.0, Aux({"square": jax.random.normal(key) ** 2})

    task, optimizers = Task({"a": Objective(("w",), loss)}), {"a": optax.sgd(1.0)}
    state = create_state({"w": jnp.float32(0)}, task=task, optimizers=optimizers)
    batch = {"x": np.zeros((4, 1))}
    values = [
        float(
            train_step(
                state,
                None,
                batch,
                task=task,
                optimizers=optimizers,
                ema=None,
                key=toy.KEY,
                grad_accumulation=n,
            )[1]["a/square"]
        )
        for n in (1, 2, 4)
    ]
    assert len(set(values)) == 3


def test_batch_that_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="multiple of grad_accumulation"):
        toy.step_fn(toy.new_state(), toy.FROZEN, toy.host_batch(1), grad_accumulation=3)


def test_unknown_group_is_refused():
    task = Task({"a": Objective(("nothing",), lambda *_: None)})
    with pytest.raises(ValueError, match=r"trains \['nothing'\]"):
        create_state({"w": jnp.zeros(1)}, task=task, optimizers={"a": optax.sgd(1.0)})


def test_objective_without_optimizer_is_refused():
    task = Task({"a": Objective(("w",), lambda *_: None)})
    with pytest.raises(ValueError, match="'a' has no optimizer"):
        create_state({"w": jnp.zeros(1)}, task=task, optimizers={})
