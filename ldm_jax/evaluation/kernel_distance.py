"""The kernel distance (KID): Binkowski et al. 2018, arXiv:1801.01401."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

SUBSETS = 100
SUBSET_SIZE = 1000
SEED = 2020


class KernelDistance(NamedTuple):
    """Mean and standard deviation over the subsets."""

    mean: float
    std: float


def kid(
    a: Float[np.ndarray, "n d"],
    b: Float[np.ndarray, "m d"],
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = SEED,
) -> KernelDistance:
    """Unbiased squared MMD under the kernel (x'y / d + 1)^3, over random subsets.

    May be slightly negative where both sets are alike. Defaults and the choice of the
    subsets are torch-fidelity's; its sums are float32, these float64.

    Raises:
      ValueError: if there are fewer rows than `subset_size`, or fewer than 2.
    """
    if not 2 <= subset_size <= min(len(a), len(b)):
        raise ValueError(
            f"KID subsets of {subset_size} cannot be drawn from {len(a)} and {len(b)} "
            "pictures: take more pictures or smaller subsets"
        )
    generator = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        x = a[generator.choice(len(a), subset_size, replace=False)]
        y = b[generator.choice(len(b), subset_size, replace=False)]
        values.append(_mmd2(x, y))
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def _mmd2(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"]) -> float:
    n = len(x)
    within = 0.0
    for rows in (x, y):
        kernel = _kernel(rows, rows)
        within += (kernel.sum() - np.trace(kernel)) / (n * (n - 1))
    return within - 2 * _kernel(x, y).mean()


def _kernel(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "n m"]:
    products = (x @ y.T).astype(np.float64)
    return (products / x.shape[1] + 1) ** 3
