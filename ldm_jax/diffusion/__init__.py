"""The mathematics of diffusion: schedules, the Gaussian process, predictions, weights."""

from ldm_jax.diffusion import predictions, schedules, weighting

SCHEDULES = {
    "linear": schedules.linear,
    "cosine": schedules.cosine,
    "sqrt_linear": schedules.sqrt_linear,
    "sqrt": schedules.sqrt,
}

PREDICTIONS = {
    "eps": predictions.EPS,
    "x0": predictions.X0,
    "v": predictions.V,
}

WEIGHTINGS = {
    "simple": weighting.simple_weights,
    "min_snr": weighting.min_snr_weights,
    "vlb": weighting.vlb_weights,
}
