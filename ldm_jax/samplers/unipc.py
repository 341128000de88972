"""UniPC (Zhao et al. 2023): a predictor and a corrector that share each x0.

Data prediction, multistep, with B(h) = h or exp(h) - 1. The corrector of a step needs the
x0 of the next level, so it is applied there: to x, before the next prediction starts
from it. Both are linear in the latest x0, and together one row for `multistep.step`.
"""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float

from ldm_jax.diffusion.schedules import Level
from ldm_jax.samplers.base import Sampler, pairs
from ldm_jax.samplers.multistep import (
    Row,
    available_order,
    half_log_snr,
    remember,
    step,
    weight_of_x0,
)

_MAX_ORDER = 3


def _rows(
    levels: Level,
    *,
    order: int = 2,
    b_h: Literal["bh1", "bh2"] = "bh2",
    final_order: int = 1,
) -> Row:
    """Algorithms 1 and 2 in their data-prediction form.

    Args:
      levels: where to step.
      order: p = 1 to 3, of the predictor; with the corrector UniPC converges with p + 1.
        Its authors use 2 with guidance and 3 without.
      b_h: `bh2` is exp(h) - 1; `bh1` is h, which they prefer without guidance below 10
        steps.
      final_order: of the last predictor, one more in each step before it. 1 is the
        authors' choice and diffusers', good with few steps; with very many, convergence
        falls to order 2, and 3 is better. A step to clean data is of order 1 in any case.

    diffusers' `UniPCMultistepScheduler` gives the same numbers on the same levels, but NaN
    for `bh1` at clean data; and it moves the sigma of a level without signal by 1e-6, where
    here a step without corrector leads to the next level and order one starts there.
    """
    if order not in range(1, _MAX_ORDER + 1):
        raise ValueError(f"order is {order}: UniPC has 1, 2 and 3")
    if b_h not in ("bh1", "bh2"):
        raise ValueError(f"b_h is {b_h!r}; choose 'bh1' or 'bh2'")
    if final_order < 1:
        raise ValueError(f"final_order is {final_order}: give 1, 2 or 3")
    level, after = pairs(levels)
    half_log_snrs, weight = half_log_snr(levels), weight_of_x0(levels)
    steps = np.arange(len(weight))
    orders = np.minimum(available_order(half_log_snrs), order)
    orders = np.minimum(orders, final_order + steps[::-1])
    ratio = after.noise_scale / level.noise_scale
    coefs_x0 = np.zeros((len(steps), _MAX_ORDER + 1))
    coefs_x0[:, 0] = weight
    for i in steps:
        nodes = half_log_snrs[i + 1 - orders[i] : i + 2][::-1]  # next, this, before...
        if not np.isfinite(nodes).all() or nodes[0] == nodes[1]:
            continue
        predictor, corrector = _slopes(nodes, b_h)
        scale = -after.signal_scale[i]
        coefs_x0[i, : orders[i]] += scale * predictor[1:]
        if i + 1 < len(steps):
            correction = scale * (corrector - predictor)
            coefs_x0[i + 1, : orders[i] + 1] += ratio[i + 1] * correction
    return Row(level, ratio, coefs_x0, np.zeros_like(ratio))


def _slopes(
    nodes: Float[np.ndarray, " n"], b_h: str
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """What UniP and UniC add to a first-order step, as weights of x0 at `nodes`.

    `nodes` are lambda of the next level, of this one and of those before: p + 1 for order
    p. Both are to be multiplied by -signal_scale' (the paper's alpha_t).
    """
    order = len(nodes) - 1
    h = nodes[0] - nodes[1]
    b = {"bh1": -h, "bh2": math.expm1(-h)}[b_h]
    r = (np.delete(nodes, 1) - nodes[1]) / h  # 1 for the next level, below 0 for others
    powers = np.vander(r, order, increasing=True).T
    moments = np.array(
        [math.factorial(k) * _phi(k + 1, -h) for k in range(1, order + 1)]
    )
    moments *= -h / b
    corrector = np.linalg.solve(powers, moments) if order > 1 else np.array([0.5])
    predictor = np.zeros(order)
    if order == 2:
        predictor[1] = 0.5  # as published: exact enough, and independent of h
    elif order > 2:
        predictor[1:] = np.linalg.solve(powers[:-1, 1:], moments[:-1])

    def at_nodes(rho):
        """sum of rho / r (x0 - x0 here) -> weights of the x0."""
        weights = b * rho / r
        return np.concatenate([weights[:1], [-weights.sum()], weights[1:]])

    return at_nodes(predictor), at_nodes(corrector)


def _phi(k: int, z: float) -> float:
    """phi_k(z) = sum over j of z^j / (j + k)!, of exponential integrators."""
    if abs(z) < 1:  # where the recursion cancels
        return sum(z**j / math.factorial(j + k) for j in range(18))
    value = math.exp(z)
    for j in range(k):
        value = (value - 1 / math.factorial(j)) / z
    return value


UNIPC = Sampler(_rows, remember(_MAX_ORDER), step)
