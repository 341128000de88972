"""Weights of the training loss at each timestep: float32 host tables `[T]`.

A weight multiplies the loss on the network's own output. All but `simple` are stated for
the error of x0 and carried over to the output. At a given x_t an error e of x0 means an
error `-(a / s) e` of eps, with a = signal_scale and s = noise_scale, and targets are linear
in both; so where variance is preserved
`|eps error|^2 = SNR |x0 error|^2` and `|v error|^2 = (SNR + 1) |x0 error|^2`.
"""

import numpy as np
from jaxtyping import Float

from ldm_jax.diffusion.predictions import Prediction, check_readable
from ldm_jax.diffusion.process import step_posterior
from ldm_jax.diffusion.schedules import Schedule


def simple_weights(
    schedule: Schedule, prediction: Prediction
) -> Float[np.ndarray, "T"]:
    """One everywhere: L_simple (Ho et al. 2020, eq. 14)."""
    del prediction
    return np.ones(schedule.num_timesteps, np.float32)


def min_snr_weights(
    schedule: Schedule, prediction: Prediction, gamma: float = 5.0
) -> Float[np.ndarray, "T"]:
    """min(SNR, gamma) on the error of x0 (Hang et al. 2023), for any prediction.

    On the output: eps `min(SNR, gamma) / SNR`, v `min(SNR, gamma) / (SNR + 1)`. Without
    signal (zero terminal SNR) the weight is 0.

    Raises:
      ValueError: if gamma is not positive, or for eps without signal.
    """
    if not gamma > 0:
        raise ValueError(f"min-SNR's gamma is {gamma}: give a positive number")
    return _on_output(np.minimum(schedule.exact_snr, gamma), schedule, prediction)


def p2_weights(
    schedule: Schedule, prediction: Prediction, gamma: float = 1.0, k: float = 1.0
) -> Float[np.ndarray, "T"]:
    """1 / (k + SNR)^gamma on the error of eps (Choi et al. 2022), for any prediction.

    The paper's gamma is 1 or 0.5; 0 weighs all errors of eps alike.

    Raises:
      ValueError: if k is not positive, or for eps without signal.
    """
    if not k > 0:
        raise ValueError(f"P2 weighting's k is {k}: give a positive number")
    snr = schedule.exact_snr
    return _on_output(snr / (k + snr) ** gamma, schedule, prediction)


def vlb_weights(schedule: Schedule, prediction: Prediction) -> Float[np.ndarray, "T"]:
    """Weights that turn the squared error into the variational bound.

    `KL(q(x_{t-1} | x_t, x0) || p) = coef_x0^2 |x0 error|^2 / (2 variance)` (Ho et al. 2020,
    eq. 8); for eps that is `beta^2 / (2 variance (1 - beta) (1 - alpha_bar))`, their eq. 12,
    as in the reference. Entry 0, where the posterior variance is zero, repeats entry 1.

    Raises:
      ValueError: for eps without signal.
    """
    q = step_posterior(schedule)
    variance = np.append(1.0, q.variance[1:])
    weights = _on_output(q.coef_x0**2 / (2 * variance), schedule, prediction)
    return _repeat_first(weights[1:])


def reference_x0_vlb_weights(schedule: Schedule) -> Float[np.ndarray, "T"]:
    """The reference's vlb weights for x0: `sqrt(alpha_bar) / 2 / (2 - alpha_bar)`.

    A slip of precedence for `2 (1 - alpha_bar)`, kept to reproduce its logged loss_vlb.
    """
    alpha_bar = schedule.exact_alphas_cumprod[1:]
    return _repeat_first(0.5 * np.sqrt(alpha_bar) / (2 - alpha_bar))


def _on_output(
    x0_weights: Float[np.ndarray, "T"], schedule: Schedule, prediction: Prediction
) -> Float[np.ndarray, "T"]:
    """Weights of the squared error of x0 -> the same loss on the network's output."""
    check_readable(prediction, schedule)
    a, s = schedule.exact_signal_scales, schedule.exact_noise_scales
    output_error = prediction.target(np.ones_like(a), -a / s, a, s)
    return (x0_weights / output_error**2).astype(np.float32)


def _repeat_first(weights: Float[np.ndarray, "S"]) -> Float[np.ndarray, "T"]:
    """Prepend a copy of the first entry (all of T = 1 weighs one)."""
    first = weights[:1] if weights.size else np.ones(1)
    return np.concatenate([first, weights]).astype(np.float32)
