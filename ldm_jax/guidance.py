"""Guidance: wrappers from one `DenoiseFn` to another.

Every number may be traced, so that changing it compiles nothing. In all of them 1 is the
model as it is trained, except for the scales of gradients, where that is 0. Order, from the
network outwards:

1. `guide` (or `classifier_free`) on the doubled batch, because only the network knows of
   the two conditions;
2. `autoguidance`, `classifier`, `image_guiding`: they take a denoiser of b examples;
3. `rescale` and `interval` around a wrapper of step 2 (`guide` has both built in);
4. `map_x0` and its kin (clip, threshold, quantise), which must see the x0 that the
   sampler steps with.

A wrapper of one's own is a function of (x, level) that calls the `denoise_fn` it wraps and
returns another `Denoised`; it need not keep the two halves consistent, but solvers that
mix x0 and eps are then no longer what their authors meant.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.arrays import broadcast_to_rank
from ldm_jax.diffusion.denoise import Denoised, DenoiseFn
from ldm_jax.diffusion.predictions import EPS, Prediction
from ldm_jax.diffusion.schedules import Level

Scalar = float | Float[Array, ""]
Scale = float | Float[Array, "*b"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance as data: a pytree of numbers, scalars or `[b]`.

    Attributes:
      scale: 1 is no guidance, 0 the unconditional model (see `classifier_free`).
      rescale: phi of Lin et al. 2024, 0 to 1 (see `rescale`); they recommend 0.7.
      interval: guide only where `noise_share` lies within, ends included; outside is the
        conditional model, not rescaled (see `interval`). (0, 1) is everywhere.
    """

    scale: Scale
    rescale: Scale = 0.0
    interval: tuple[Scale, Scale] = (0.0, 1.0)


def noise_share(level: Level) -> Any:
    """How much of x is noise, 0 (clean) to 1: `sigma / (1 + sigma)`.

    The unit of guidance intervals: a function of sigma alone, so it means the same for
    every schedule and number of steps; it is the time of a rectified flow. From a sigma
    (Kynkaanniemi et al. 2024 use 0.28 to 5.42 for Stable Diffusion XL):
    `noise_share(schedule.level_of_sigma(5.42))`; from a timestep:
    `noise_share(schedule.level_at(0.8 * (schedule.num_timesteps - 1)))`.
    """
    return level.noise_scale / (level.signal_scale + level.noise_scale)


def guide(
    denoise_fn: DenoiseFn, guidance: Guidance, *, prediction: Prediction = EPS
) -> DenoiseFn:
    """`classifier_free`, `rescale` and `interval` in one call of a doubled denoiser.

    Args:
      denoise_fn: a denoiser of 2b examples whose condition is bound as [uncond, cond] along
        the batch axis, as `conditioning.stack(uncond, cond)` does.
      guidance: may be traced, whole or in part.
      prediction: what the network outputs, which is what `rescale` rescales.

    Returns:
      A denoiser of b examples. It calls `denoise_fn` once at every level, also outside the
      interval: the program is the same for all values.
    """

    def guided(x, level):
        inside = _is_within(guidance.interval, level)
        scale = jnp.where(inside, guidance.scale, 1)
        phi = jnp.where(inside, guidance.rescale, 0)
        uncond, cond = _halves(denoise_fn(jnp.concatenate([x, x]), level))
        result = _extrapolate(uncond, cond, scale)
        return _rescale(result, cond, phi, prediction, x, level)

    return guided


def classifier_free(denoise_fn: DenoiseFn, guidance_scale: Scale) -> DenoiseFn:
    """`uncond + guidance_scale * (cond - uncond)` (Ho & Salimans 2022, LDM's notation).

    Args:
      denoise_fn: a doubled denoiser, as `guide` takes. With the condition of a negative
        prompt as `uncond`, guidance leads away from that prompt.
      guidance_scale: a scalar or one number for each example; 1 is no guidance.

    Returns:
      A denoiser of b examples that calls `denoise_fn` once, on the doubled batch. x0 and
      eps are extrapolated alike and so still explain x.
    """

    def guided(x, level):
        uncond, cond = _halves(denoise_fn(jnp.concatenate([x, x]), level))
        return _extrapolate(uncond, cond, guidance_scale)

    return guided


def autoguidance(
    denoise_fn: DenoiseFn, weak_denoise_fn: DenoiseFn, guidance_scale: Scale
) -> DenoiseFn:
    """`weak + guidance_scale * (strong - weak)` (Karras et al. 2024, eq. 3 and section 4).

    `weak_denoise_fn` is a worse version of the model with the same condition: fewer
    parameters, or an earlier checkpoint. Both are called.
    """

    def guided(x, level):
        weak = weak_denoise_fn(x, level)
        return _extrapolate(weak, denoise_fn(x, level), guidance_scale)

    return guided


def rescale(
    guided_fn: DenoiseFn,
    denoise_fn: DenoiseFn,
    phi: Scale,
    *,
    prediction: Prediction = EPS,
) -> DenoiseFn:
    """Give guidance the spread of the model without it (Lin et al. 2024, eq. 15 and 16).

    The network's output o (eps, v, ...: `prediction`) is what is rescaled, as in the paper
    and in diffusers: `o' = (1 + phi (std(cond o) / std(o) - 1)) o`, with the standard
    deviation of each example over all its other axes. x0 and eps are then read from o'
    and explain x. phi is 0 (nothing) to 1.

    Calls both; `guide` spares the second call. At a level without signal pass the model's
    own `prediction`: eps cannot be read there.
    """

    def rescaled(x, level):
        guided, cond = guided_fn(x, level), denoise_fn(x, level)
        return _rescale(guided, cond, phi, prediction, x, level)

    return rescaled


def interval(
    guided_fn: DenoiseFn,
    denoise_fn: DenoiseFn,
    low: Scalar,
    high: Scalar,
) -> DenoiseFn:
    """Guide only at middle noise (Kynkaanniemi et al. 2024), `low <= noise_share <= high`.

    The paper leaves out the lower end. Elsewhere `denoise_fn`, and only that, is called:
    cheaper than `guide`, for a program that holds both.
    """

    def chosen(x, level):
        inside = _is_within((low, high), level)
        return jax.lax.cond(inside, guided_fn, denoise_fn, x, level)

    return chosen


def classifier(
    denoise_fn: DenoiseFn,
    log_prob: Callable[[Array, Level], Float[Array, " b"]],
    scale: Scale,
) -> DenoiseFn:
    """Follow a classifier of noisy data (Dhariwal & Nichol 2021, algorithm 2).

    `eps' = eps - scale noise_scale grad log p(y | x)`; x0 is what eps' implies.

    Args:
      denoise_fn: the model, conditional or not.
      log_prob: `(x, level) -> [b]`, log p(y | x at this level), y bound; `level.t` is the
        timestep.
      scale: 0 is no guidance, 1 samples from p(x | y) if both models are exact.
    """

    def guided(x, level):
        slope = jax.grad(lambda x: log_prob(x, level).sum())(x)
        return _add_to_score(denoise_fn(x, level), slope, scale, level)

    return guided


def image_guiding(
    denoise_fn: DenoiseFn,
    log_prob: Callable[[Array], Float[Array, " b"]],
    scale: Scale,
) -> DenoiseFn:
    """Follow a function of clean data, through the denoiser (Rombach et al. 2022, eq. 15).

    `eps' = eps - scale noise_scale grad_x log_prob(x0(x))`: LDM's image guiding, where
    `log_prob(x0)` is minus half the squared error of the decoded, degraded x0 to a
    picture. Costs one call of the denoiser and one backward pass. The paper prints a plus;
    log p rises with this minus.
    """

    def guided(x, level):
        denoised, pull_back = jax.vjp(lambda x: denoise_fn(x, level), x)
        slope_x0 = jax.grad(lambda x0: log_prob(x0).sum())(denoised.x0)
        (slope,) = pull_back(Denoised(slope_x0, jnp.zeros_like(denoised.eps)))
        return _add_to_score(denoised, slope, scale, level)

    return guided


def _is_within(ends: tuple[Scale, Scale], level: Level) -> Array:
    share = noise_share(level)
    return (ends[0] <= share) & (share <= ends[1])


def _halves(doubled: Denoised) -> tuple[Denoised, Denoised]:
    first, second = zip(*(jnp.split(both, 2) for both in doubled), strict=True)
    return Denoised(*first), Denoised(*second)


def _extrapolate(start: Denoised, end: Denoised, scale: Scale) -> Denoised:
    scale = _like(scale, start.x0)
    return jax.tree.map(lambda a, b: a + scale * (b - a), start, end)


def _rescale(
    guided: Denoised,
    cond: Denoised,
    phi: Scale,
    prediction: Prediction,
    x: Array,
    level: Level,
) -> Denoised:
    scales = level.signal_scale, level.noise_scale
    output = prediction.target(*guided, *scales)
    ratio = _std_ratio(prediction.target(*cond, *scales), output)
    factor = 1 + _like(phi, x) * (ratio - 1)
    rescaled = prediction.read(factor * output, x, *scales)
    # What is not rescaled keeps its very bits.
    return jax.tree.map(lambda a, b: jnp.where(factor == 1, a, b), guided, rescaled)


def _std_ratio(a: Array, b: Array) -> Float[Array, "b ..."]:
    """std(a) / std(b) of each example, `[b 1 ...]`; 1 if b is constant."""
    axes = tuple(range(1, a.ndim))
    var_a, var_b = (jnp.var(x.astype(jnp.float32), axes, keepdims=True) for x in (a, b))
    is_safe = (var_a > 0) & (var_b > 0)
    ratio = jnp.sqrt(jnp.where(is_safe, var_a, 1) / jnp.where(is_safe, var_b, 1))
    return ratio.astype(a.dtype)


def _add_to_score(
    denoised: Denoised, slope: Array, scale: Scale, level: Level
) -> Denoised:
    """Add `scale * slope` to the score `-eps / noise_scale`."""
    step = level.noise_scale * _like(scale, slope) * slope
    # x without signal tells nothing of x0: its exact slope is zero.
    has_signal = level.signal_scale > 0
    sigma = level.noise_scale / jnp.where(has_signal, level.signal_scale, jnp.inf)
    return Denoised(denoised.x0 + sigma * step, denoised.eps - step)


def _like(scale: Scale, x: Array) -> Array:
    """Numbers of x's dtype that broadcast against it."""
    return broadcast_to_rank(jnp.asarray(scale, x.dtype), x.ndim)
