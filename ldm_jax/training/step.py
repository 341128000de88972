"""One optimizer step of any task, as a pure function.

Not jitted here: the caller jits it once, with a donated state and its shardings. Means
over the batch are global under `jit`, so there is no collective in sight.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ldm_jax.rng import named_key, step_key
from ldm_jax.training.ema import Ema
from ldm_jax.training.state import TrainState
from ldm_jax.training.task import Aux, Objective, Task
from ldm_jax.trees import select

PyTree = Any
Batch = Mapping[str, jax.Array]


def train_step(
    state: TrainState,
    frozen: PyTree,
    batch: Batch,
    *,
    task: Task,
    optimizers: Mapping[str, optax.GradientTransformation],
    ema: Ema | None,
    key: jax.Array,
    grad_accumulation: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Update every objective of `task` once, in order, then the EMA.

    Args:
      state: donated by most callers.
      frozen: parameters that nothing trains (a first stage, LPIPS), passed to the losses.
      batch: arrays `[b, ...]`; `grad_accumulation` must divide b.
      key: the run's seed; the draws are a function of (key, state.step, objective,
        microbatch) and so do not depend on devices or on where a run was resumed.
      grad_accumulation: number of microbatches whose gradients and metrics are averaged;
        collections pass from one to the next.

    Returns:
      The new state and a flat dict "<objective>/<metric>" with "loss" and "grad_norm"
      of each objective; "loss" alone is the first objective's.

    Raises:
      ValueError: if `grad_accumulation` does not divide the batch.
    """
    new = step_with_gradients(
        state,
        frozen,
        batch,
        task=task,
        optimizers=optimizers,
        ema=ema,
        key=key,
        grad_accumulation=grad_accumulation,
    )
    return new.state, new.metrics


class Taken(NamedTuple):
    """A step with the gradients it took, by objective."""

    state: TrainState
    metrics: dict[str, jax.Array]
    grads: dict[str, PyTree]


def step_with_gradients(
    state: TrainState,
    frozen: PyTree,
    batch: Batch,
    *,
    task: Task,
    optimizers: Mapping[str, optax.GradientTransformation],
    ema: Ema | None,
    key: jax.Array,
    grad_accumulation: int = 1,
) -> Taken:
    """`train_step` for whoever looks into it."""
    key = step_key(key, state.step)
    metrics, all_grads = {}, {}
    for name, objective in task.objectives.items():
        grads, aux = _gradients(
            objective, state, frozen, batch, named_key(key, name), grad_accumulation
        )
        state = _apply_update(state, name, objective, grads, optimizers[name], aux)
        metrics |= {f"{name}/{metric}": value for metric, value in aux.metrics.items()}
        metrics[f"{name}/grad_norm"] = optax.tree.norm(grads)
        metrics.setdefault("loss", aux.metrics["loss"])
        all_grads[name] = grads
    return Taken(_advance(state, ema), metrics, all_grads)


def _gradients(
    objective: Objective,
    state: TrainState,
    frozen: PyTree,
    batch: Batch,
    key: jax.Array,
    num_microbatches: int,
) -> tuple[PyTree, Aux]:
    """Mean gradient of the trained groups, and the Aux with "loss" among its metrics."""
    trained, fixed = select(state.params, objective.trains)

    def one_microbatch(
        collections: dict, microbatch: Batch, index: int | jax.Array
    ) -> tuple[PyTree, Aux]:
        def loss_fn(trained: PyTree) -> tuple[jax.Array, Aux]:
            return objective.loss(
                {**fixed, **trained},
                collections,
                frozen,
                microbatch,
                state.step,
                jax.random.fold_in(key, index),
            )

        (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        metrics = {**aux.metrics, "loss": loss}
        return grads, Aux(metrics, {**collections, **aux.collections})

    if num_microbatches == 1:
        return one_microbatch(state.collections, batch, 0)

    def body(carry: tuple, inputs: tuple) -> tuple[tuple, Mapping]:
        total, collections = carry
        grads, aux = one_microbatch(collections, *inputs)
        return (jax.tree.map(jnp.add, total, grads), aux.collections), aux.metrics

    inputs = (_microbatches(batch, num_microbatches), jnp.arange(num_microbatches))
    carry = (jax.tree.map(jnp.zeros_like, trained), state.collections)
    (total, collections), metrics = jax.lax.scan(body, carry, inputs)
    grads = jax.tree.map(lambda g: g / num_microbatches, total)
    metrics = jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics)
    return grads, Aux(metrics, collections)


def _microbatches(batch: Batch, num: int) -> dict[str, jax.Array]:
    """`[b, ...]` -> `[num, b / num, ...]`, microbatch i holding rows i, i + num, ...

    Strided rather than contiguous, so that every microbatch is spread over the devices
    just as the batch is and no row has to move.
    """

    def split(x: jax.Array) -> jax.Array:
        if x.shape[0] % num:
            raise ValueError(
                f"a batch of {x.shape[0]} cannot be split into {num} microbatches: make "
                f"the batch size a multiple of grad_accumulation"
            )
        rows = x.reshape(x.shape[0] // num, num, *x.shape[1:])
        return jnp.swapaxes(rows, 0, 1)  # [b/num num ...] -> [num b/num ...]

    return {name: split(x) for name, x in batch.items()}


def _apply_update(
    state: TrainState,
    name: str,
    objective: Objective,
    grads: PyTree,
    optimizer: optax.GradientTransformation,
    aux: Aux,
) -> TrainState:
    trained, _ = select(state.params, objective.trains)
    updates, opt_state = optimizer.update(grads, state.opt_state[name], trained)
    updated: dict = dict(optax.apply_updates(trained, updates))  # pyright: ignore
    return dataclasses.replace(
        state,
        params={**state.params, **updated},
        opt_state={**state.opt_state, name: opt_state},
        collections=dict(aux.collections),
    )


def _advance(state: TrainState, ema: Ema | None) -> TrainState:
    """Count the step and average the parameters it arrived at."""
    step = state.step + 1
    average = None
    if ema is not None:
        average = ema.update(state.ema or {}, state.params, step)
    return dataclasses.replace(state, step=step, ema=average)
