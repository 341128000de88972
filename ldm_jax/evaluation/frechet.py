"""The Frechet distance between Gaussians (Dowson & Landau 1982): FID and its kin."""

import numpy as np
from jaxtyping import Float64

from ldm_jax.evaluation.statistics import Moments

# Fewer samples than this and the estimate says more of their number than of the model.
MIN_SAMPLES = 2048


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) for covariances A and B.

    The last trace is the sum of the singular values of L_a' L_b with A = L_a L_a', real
    and never negative by construction, where the usual root of the product A B is
    complex for singular covariances (fewer samples than features). Eigenvalues below
    rounding count as 0: their roots would be most of the result.

    Raises:
      ValueError: if the features have different widths.
    """
    if a.width != b.width:
        raise ValueError(
            f"features of width {a.width} and {b.width} cannot be compared: take both "
            "from one network"
        )
    difference = a.mean - b.mean
    roots = np.linalg.svd(_factor(a).T @ _factor(b), compute_uv=False)
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return float(max(difference @ difference + traces - 2 * roots.sum(), 0.0))


def sample_warnings(count: int, width: int, what: str) -> list[str]:
    """Sentences about a number of samples too small for a Frechet distance.

    Args:
      count: vectors that the statistics come from; 0 if unknown.
      width: features of a vector.
      what: they are of, such as "samples".
    """
    if 0 < count < max(MIN_SAMPLES, width + 1):
        sentence = (
            f"{count} {what} are too few for a Frechet distance over {width} features, "
            f"which is biased upwards below some {MIN_SAMPLES}: compare it only with "
            "values of as many"
        )
        return [sentence]
    return []


def _factor(moments: Moments) -> Float64[np.ndarray, "d r"]:
    """L with L L' the covariance, without its null space."""
    covariance = moments.covariance
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    floor = max(values[-1], 0) * len(values) * np.finfo(np.float64).eps
    kept = values > floor
    return vectors[:, kept] * np.sqrt(values[kept])
