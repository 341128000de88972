"""The mathematics of diffusion: schedules, the Gaussian process, predictions, losses."""

from ldm_jax.diffusion import norms, predictions, schedules, time_sampling, weighting

SCHEDULES = {
    "linear": schedules.linear,
    "cosine": schedules.cosine,
    "sqrt_linear": schedules.sqrt_linear,
    "sqrt": schedules.sqrt,
    "rectified_flow": schedules.rectified_flow,
}

PREDICTIONS = {
    "eps": predictions.EPS,
    "x0": predictions.X0,
    "v": predictions.V,
    "velocity": predictions.VELOCITY,
}

NORMS = {
    "l1": norms.l1,
    "l2": norms.l2,
    "huber": norms.huber,
    "pseudo_huber": norms.pseudo_huber,
}

WEIGHTINGS = {
    "simple": weighting.simple_weights,
    "min_snr": weighting.min_snr_weights,
    "p2": weighting.p2_weights,
    "vlb": weighting.vlb_weights,
}

TIME_SAMPLINGS = {
    "uniform": time_sampling.uniform,
    "logit_normal": time_sampling.logit_normal,
    "log_normal": time_sampling.log_normal,
    "importance": time_sampling.importance,
}
