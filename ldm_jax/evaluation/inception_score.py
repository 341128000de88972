"""The Inception Score: Salimans et al. 2016, arXiv:1606.03498."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

SPLITS = 10
SEED = 2020


class InceptionScore(NamedTuple):
    """Mean and standard deviation over the splits."""

    mean: float
    std: float


def inception_score(
    logits: Float[np.ndarray, "n k"], *, splits: int = SPLITS, seed: int = SEED
) -> InceptionScore:
    """exp of the mean KL divergence of p(y|x) to p(y), within each of `splits` parts.

    The parts are cut from a shuffled set, as torch-fidelity does.

    Raises:
      ValueError: if there are fewer pictures than splits.
    """
    n = len(logits)
    if not 1 <= splits <= n:
        raise ValueError(
            f"an Inception Score over {splits} splits needs as many pictures, and there "
            f"are {n}: take more pictures or fewer splits"
        )
    order = np.random.RandomState(seed).permutation(n)
    scores = []
    for part in range(splits):
        rows = order[part * n // splits : (part + 1) * n // splits]
        log_p = _log_softmax(logits[rows].astype(np.float64))
        p = np.exp(log_p)
        log_marginal = np.log(p.mean(axis=0, keepdims=True) + np.finfo(float).tiny)
        divergence = (p * (log_p - log_marginal)).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _log_softmax(x: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
