"""Confidence intervals by resampling (Efron 1979)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

RESAMPLES = 1000


class Interval(NamedTuple):
    """The middle 95% of the resampled values."""

    low: float
    high: float


def mean_interval(
    values: Float[np.ndarray, " n"], *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Of the mean of one value per picture, drawing pictures with replacement.

    How much it would move with other pictures from the same place; not how far it is off
    because of the features, the preprocessing or the estimator's bias.
    """
    values = np.asarray(values, np.float64)
    generator = np.random.default_rng(seed)
    means = [
        values[generator.integers(len(values), size=len(values))].mean()
        for _ in range(resamples)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(low), float(high))
