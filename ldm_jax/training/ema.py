"""Exponential moving average of parameters as an init/update pair.

Source: the reference's LitEma, `shadow -= (1 - decay) * (shadow - param)`, with its
ramp `decay_n = min(decay, (1 + n) / (10 + n))`, n = 1 at the first update.

Two departures, both on purpose. The reference averages the denoiser alone, so that its
samples join an averaged U-Net with the raw conditioner it was trained beside;
`groups=("backbone",)` reproduces that. It also updates after every batch, even inside
gradient accumulation; here an update follows an optimizer step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ldm_jax.trees import select

PyTree = Any
DecayFn = Callable[[jax.Array], jax.Array]


class Ema(NamedTuple):
    """`init(params) -> average`; `update(average, params, num_updates) -> average`.

    `num_updates` counts from 1 and includes the update being made.
    """

    init: Callable[[dict[str, PyTree]], dict[str, PyTree]]
    update: Callable[[dict[str, PyTree], dict[str, PyTree], jax.Array], dict]


def ramp(decay: float = 0.9999) -> DecayFn:
    """The reference's warm-up: min(decay, (1 + n) / (10 + n)), 2/11 at the first."""

    def decay_fn(num_updates: jax.Array) -> jax.Array:
        n = jnp.asarray(num_updates, jnp.float32)
        return jnp.minimum(jnp.float32(decay), (1 + n) / (10 + n))

    return decay_fn


def constant(decay: float = 0.9999) -> DecayFn:
    """The same decay at every update (the reference's `use_num_upates=False`)."""
    return lambda num_updates: jnp.float32(decay)


def ema(decay_fn: DecayFn, groups: tuple[str, ...]) -> Ema:
    """Average the parameter groups `groups`; the others are not kept.

    The average is float32 whatever the parameters' dtype, for (1 - decay) times a
    difference is below bfloat16's resolution.
    """

    def init(params: dict[str, PyTree]) -> dict[str, PyTree]:
        missing = [group for group in groups if group not in params]
        if missing:
            raise ValueError(
                f"the EMA averages {missing}, but the parameter groups are "
                f"{sorted(params)}: correct its `groups`"
            )
        chosen, _ = select(params, groups)
        # A copy, so that donating the state never hands one buffer over twice.
        return jax.tree.map(lambda x: jnp.array(x, jnp.float32), chosen)

    def update(
        average: dict[str, PyTree], params: dict[str, PyTree], num_updates: jax.Array
    ) -> dict[str, PyTree]:
        chosen, _ = select(params, groups)
        rate = 1 - decay_fn(num_updates)
        return jax.tree.map(
            lambda a, x: a - rate * (a - x.astype(jnp.float32)), average, chosen
        )

    return Ema(init, update)
