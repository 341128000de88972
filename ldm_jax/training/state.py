"""Everything that changes while training, as one pytree."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from ldm_jax.training.ema import Ema
from ldm_jax.training.task import Task
from ldm_jax.trees import select

PyTree = Any


@flax.struct.dataclass
class TrainState:
    """The state of a run; frozen networks are not part of it.

    Attributes:
      step: int32 scalar, optimizer steps done.
      params: parameters by top-level group ("backbone", "discriminator", ...).
      ema: averaged copies of some of the groups, or None.
      opt_state: optimizer state by objective name.
      collections: mutable linen state and measured constants by name (BatchNorm
        statistics under "discriminator", the latent scale under "latent_scale").
    """

    step: jax.Array
    params: dict[str, PyTree]
    ema: dict[str, PyTree] | None
    opt_state: dict[str, PyTree]
    collections: dict[str, PyTree]


def create_state(
    params: Mapping[str, PyTree],
    *,
    task: Task,
    optimizers: Mapping[str, optax.GradientTransformation],
    ema: Ema | None = None,
    collections: Mapping[str, PyTree] | None = None,
) -> TrainState:
    """The state at step 0. Pure: usable under `jax.jit` and `jax.eval_shape`.

    Raises:
      ValueError: if an objective names a group that `params` lacks, or has no optimizer.
    """
    opt_state = {}
    for name, objective in task.objectives.items():
        missing = [group for group in objective.trains if group not in params]
        if missing:
            raise ValueError(
                f"objective {name!r} trains {missing}, but the parameter groups are "
                f"{sorted(params)}: correct its `trains`"
            )
        if name not in optimizers:
            raise ValueError(
                f"objective {name!r} has no optimizer: there are {sorted(optimizers)}"
            )
        trained, _ = select(params, objective.trains)
        opt_state[name] = optimizers[name].init(trained)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=dict(params),
        ema=None if ema is None else ema.init(dict(params)),
        opt_state=opt_state,
        collections=dict(collections or {}),
    )
