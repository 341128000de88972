"""The pure functions of a run: its first state and its step."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from ml_collections import ConfigDict

from ldm_jax import build
from ldm_jax.nn.jit import jit
from ldm_jax.rng import named_key
from ldm_jax.training import sharding
from ldm_jax.training.guarded_step import Tally, guard, new_tally
from ldm_jax.training.state import TrainState, create_state
from ldm_jax.training.step import step_with_gradients, train_step

PyTree = Any


def create_fn(config: ConfigDict, experiment: build.Experiment) -> Callable:
    """`key -> TrainState` at step 0, pure."""
    optimizers = build.optimizers(config, experiment.task)
    average = build.average(config, experiment.task)

    def create(key: jax.Array) -> TrainState:
        params, collections = experiment.init(named_key(key, "init"))
        return create_state(
            params,
            task=experiment.task,
            optimizers=optimizers,
            ema=average,
            collections=collections,
        )

    return create


def step_fn(config: ConfigDict, experiment: build.Experiment, key: jax.Array):
    """`(state, frozen, batch) -> (state, metrics)`, not jitted."""
    return partial(train_step, **_step_options(config, experiment, key))


def gradients_fn(config: ConfigDict, experiment: build.Experiment, key: jax.Array):
    """The same step with its gradients, `(state, frozen, batch) -> Taken`."""
    return partial(step_with_gradients, **_step_options(config, experiment, key))


def _step_options(
    config: ConfigDict, experiment: build.Experiment, key: jax.Array
) -> dict[str, Any]:
    return {
        "task": experiment.task,
        "optimizers": build.optimizers(config, experiment.task),
        "ema": build.average(config, experiment.task),
        "key": named_key(key, "train"),
        "grad_accumulation": config.train.grad_accumulation,
    }


def jit_step(
    config: ConfigDict,
    experiment: build.Experiment,
    key: jax.Array,
    shardings: PyTree,
    mesh: jax.sharding.Mesh,
):
    """`step_fn` as it runs, `(state, frozen, batch, tally) -> (state, metrics, tally)`:
    guarded, on a mesh, its state donated and laid out by `shardings`.
    """
    whole = sharding.replicated(mesh)
    return jit(
        sharding.on_mesh(guard(step_fn(config, experiment, key)), mesh),
        platform=mesh.devices.flat[0].platform,
        donate_argnums=0,
        out_shardings=(shardings, whole, whole),
    )


def laid_out_tally(mesh: jax.sharding.Mesh, skipped: int = 0) -> Tally:
    """The tally of a run whose first `skipped` lost steps are known."""
    return jax.device_put(new_tally(skipped), sharding.replicated(mesh))
