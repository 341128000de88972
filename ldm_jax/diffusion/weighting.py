"""Weights of the training loss at each timestep: float32 host tables `[T]`.

A weight multiplies the loss on the network's own output (eps, x0 or v). The three are
related by |eps error|^2 = SNR |x0 error|^2 and |v error|^2 = (SNR + 1) |x0 error|^2.
"""

import numpy as np
from jaxtyping import Float

from ldm_jax.diffusion.predictions import Prediction
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
    """min(SNR, gamma) on the error of x0 (Hang et al. 2023), for any prediction."""
    x0_weights = np.minimum(schedule.exact_snr, gamma)
    return (x0_weights / _error_ratio(schedule, prediction)).astype(np.float32)


def vlb_weights(schedule: Schedule, prediction: Prediction) -> Float[np.ndarray, "T"]:
    """Weights that turn the squared error into the variational bound (eq. 12).

    For eps `beta^2 / (2 variance (1 - beta) (1 - alpha_bar))`, as in the reference; x0 and
    v follow from it. Entry 0, where the posterior variance is zero, repeats entry 1.
    """
    posterior = step_posterior(schedule)
    eps_weights = posterior.beta[1:] ** 2 / (
        2
        * posterior.variance[1:]
        * (1 - posterior.beta[1:])
        * (1 - schedule.exact_alphas_cumprod[1:])
    )
    x0_weights = eps_weights * schedule.exact_snr[1:]
    return _repeat_first(x0_weights / _error_ratio(schedule, prediction)[1:])


def reference_x0_vlb_weights(schedule: Schedule) -> Float[np.ndarray, "T"]:
    """The reference's vlb weights for x0: `sqrt(alpha_bar) / 2 / (2 - alpha_bar)`.

    A slip of precedence for `2 (1 - alpha_bar)`, kept to reproduce its logged loss_vlb.
    """
    alpha_bar = schedule.exact_alphas_cumprod[1:]
    return _repeat_first(0.5 * np.sqrt(alpha_bar) / (2 - alpha_bar))


def _error_ratio(schedule: Schedule, prediction: Prediction) -> Float[np.ndarray, "T"]:
    """|output error|^2 / |x0 error|^2."""
    snr = schedule.exact_snr
    return {"eps": snr, "x0": np.ones_like(snr), "v": snr + 1}[prediction.name]


def _repeat_first(weights: Float[np.ndarray, "S"]) -> Float[np.ndarray, "T"]:
    """Prepend a copy of the first entry (all of T = 1 weighs one)."""
    first = weights[:1] if weights.size else np.ones(1)
    return np.concatenate([first, weights]).astype(np.float32)
