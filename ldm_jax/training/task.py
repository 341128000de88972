"""What is trained: a task is data, a dict of objectives.

A denoiser has one objective; an autoencoder with a discriminator has two, taken in the
order of the dict. Nothing here knows what is being learnt.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

PyTree = Any


class Aux(NamedTuple):
    """What a loss returns beside its scalar.

    Attributes:
      metrics: name -> scalar, written as "<objective>/<name>".
      collections: the collections that this loss changed (BatchNorm statistics, say),
        by top-level name; those left out stay as they were.
    """

    metrics: Mapping[str, jax.Array] = {}
    collections: Mapping[str, PyTree] = {}


LossFn = Callable[
    [
        dict[str, PyTree],
        dict[str, PyTree],
        PyTree,
        Mapping[str, jax.Array],
        jax.Array,
        jax.Array,
    ],
    tuple[jax.Array, Aux],
]


@dataclass(frozen=True)
class Objective:
    """One loss and the parameter groups that it trains.

    Attributes:
      trains: top-level groups of `state.params` that receive this loss's gradient;
        the others are constants to it.
      loss: `loss(params, collections, frozen, batch, step, key) -> (scalar, Aux)`.
        `params` holds every group, `frozen` the parameters that no objective trains,
        `step` counts optimizer steps from 0, `key` is this objective's own stream.
    """

    trains: tuple[str, ...]
    loss: LossFn


@dataclass(frozen=True)
class Task:
    """Objectives by name, optimised one after the other in every step.

    A later objective sees the parameters and collections that the earlier ones have
    just updated, as in the reference's alternating generator and discriminator.
    """

    objectives: Mapping[str, Objective]
