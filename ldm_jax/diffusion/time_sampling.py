"""How training draws its timesteps: a triple of pure functions, as an optimizer is a pair.

A `TimeSampling` draws t for each image and says how much its loss counts. Only
`importance` learns from the losses; its memory is a pytree that the caller keeps.
"""

import dataclasses
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ldm_jax.diffusion.schedules import Schedule

PyTree = Any


class Times(NamedTuple):
    """Timesteps, and the factor of the loss at each.

    Attributes:
      t: int32 `[b]` in [0, T-1].
      correction: `[b]`; `1 / (T p(t))` if the mean loss is to be that of a uniform t, else
        1.
    """

    t: Int[Array, " b"]
    correction: Float[Array, " b"]


@dataclasses.dataclass(frozen=True)
class TimeSampling:
    """A way to draw t.

    Attributes:
      init: `() -> memory`; an empty dict if there is nothing to remember.
      draw: `(memory, key, batch_size) -> Times`.
      update: `(memory, t, losses) -> memory`; `losses` is `[b]`, before the correction.
    """

    init: Callable[[], PyTree]
    draw: Callable[[PyTree, jax.Array, int], Times]
    update: Callable[[PyTree, Int[Array, " b"], Float[Array, " b"]], PyTree]


def uniform(schedule: Schedule) -> TimeSampling:
    """Every timestep alike, as the reference."""

    def draw(memory: PyTree, key: jax.Array, batch_size: int) -> Times:
        t = jax.random.randint(key, (batch_size,), 0, schedule.num_timesteps)
        return Times(t, jnp.ones(batch_size))

    return _without_memory(draw)


def logit_normal(
    schedule: Schedule, mean: float = 0.0, std: float = 1.0
) -> TimeSampling:
    """The time in (0, 1) has a normal logit; not corrected, so it also weighs the loss.

    Esser et al. 2024, eq. 19, whose best is (0, 1), for rectified flow: there time is the
    noise scale. On other schedules it is (t + 1/2) / T all the same. Timestep t gets the
    exact mass of (t / T, (t + 1) / T).

    Raises:
      ValueError: if std is not positive.
    """
    edges = np.arange(1, schedule.num_timesteps) / schedule.num_timesteps
    return _fixed(_masses(np.log(edges / (1 - edges)), mean, std))


def log_normal(
    schedule: Schedule, mean: float = -1.2, std: float = 1.2
) -> TimeSampling:
    """log(sigma) is normal, sigma = noise_scale / signal_scale; not corrected.

    Karras et al. 2022, table 1; their mean is for data of standard deviation 1/2: add
    log(2) for latents of unit variance. Timestep t gets the exact mass of the levels from
    t - 1/2 to t + 1/2, the first and last all of that beyond them.

    Raises:
      ValueError: if std is not positive.
    """
    level = schedule.level_at(np.arange(schedule.num_timesteps - 1) + 0.5)
    return _fixed(_masses(np.log(level.noise_scale / level.signal_scale), mean, std))


def importance(
    schedule: Schedule, num_losses: int = 10, uniform_rate: float = 1e-3
) -> TimeSampling:
    """p(t) in proportion to the root mean square of the last losses at t, corrected.

    Nichol & Dhariwal 2021, eq. 18: the mean loss and its gradient stay those of a uniform
    t, with less variance. Uniform until every t has been drawn `num_losses` times.

    Args:
      schedule: of T timesteps.
      num_losses: how many of the last losses count, 10 in the paper.
      uniform_rate: the share of draws that stays uniform.

    Raises:
      ValueError: for a number out of range.
    """
    if num_losses < 1 or not 0 <= uniform_rate <= 1:
        raise ValueError(
            f"importance sampling of t has num_losses={num_losses} and uniform_rate="
            f"{uniform_rate}: give at least 1, and a share from 0 to 1"
        )
    num_timesteps = schedule.num_timesteps

    def init() -> PyTree:
        return {
            "losses": jnp.zeros((num_timesteps, num_losses)),
            "count": jnp.zeros(num_timesteps, jnp.int32),
        }

    def draw(memory: PyTree, key: jax.Array, batch_size: int) -> Times:
        size = jnp.sqrt(jnp.square(memory["losses"]).mean(axis=1))
        is_known = jnp.all(memory["count"] >= num_losses) & (size.sum() > 0)
        size = jnp.where(is_known, size, 1.0)
        p = size / size.sum() * (1 - uniform_rate) + uniform_rate / num_timesteps
        t = _draw(jnp.cumsum(p), key, batch_size)
        return Times(t, 1 / (num_timesteps * p[t]))

    return TimeSampling(init, draw, _remember)


def _remember(
    memory: PyTree, t: Int[Array, " b"], losses: Float[Array, " b"]
) -> PyTree:
    """Overwrite the oldest losses of each t, those of one batch in their order."""
    num_timesteps, num_losses = memory["losses"].shape
    is_same = t[:, None] == t[None, :]
    earlier = jnp.tril(is_same, -1).sum(1)  # [b b] -> [b]
    later = jnp.triu(is_same, 1).sum(1)
    place = (memory["count"][t] + earlier) % num_losses
    # What later ones of this batch overwrite is not written, for scatters have no order.
    row = jnp.where(later < num_losses, t, num_timesteps)
    losses = jax.lax.stop_gradient(losses).astype(jnp.float32)
    return {
        "losses": memory["losses"].at[row, place].set(losses, mode="drop"),
        "count": memory["count"].at[t].add(1),
    }


def _masses(
    edges: Float[np.ndarray, "T-1"], mean: float, std: float
) -> Float[np.ndarray, "T"]:
    """Masses of a normal distribution between edges, the first and last without bound."""
    if not std > 0:
        raise ValueError(f"the std of time sampling is {std}: give a positive number")
    below = [NormalDist(mean, std).cdf(edge) for edge in edges]
    return np.diff([0.0, *below, 1.0])


def _fixed(probabilities: Float[np.ndarray, "T"]) -> TimeSampling:
    cumulative = np.cumsum(probabilities).astype(np.float32)

    def draw(memory: PyTree, key: jax.Array, batch_size: int) -> Times:
        t = _draw(jnp.asarray(cumulative), key, batch_size)
        return Times(t, jnp.ones(batch_size))

    return _without_memory(draw)


def _without_memory(draw: Callable[..., Times]) -> TimeSampling:
    return TimeSampling(dict, draw, lambda memory, t, losses: memory)


def _draw(
    cumulative: Float[Array, "T"], key: jax.Array, batch_size: int
) -> Int[Array, " b"]:
    """t with the given cumulative probabilities; rounding never leads out of range."""

    place = jax.random.uniform(key, (batch_size,)) * cumulative[-1]
    t = jnp.searchsorted(cumulative, place, side="right")
    return jnp.minimum(t, len(cumulative) - 1).astype(jnp.int32)
