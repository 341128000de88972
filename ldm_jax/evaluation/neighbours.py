"""Precision, recall, density and coverage: balls around nearest neighbours.

Distances are computed on the device and never more than `BLOCK` x `BLOCK` of them are
held, so memory does not grow with the square of the number of pictures.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ldm_jax.evaluation.bootstrap import Interval, mean_interval

BLOCK = 4096


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1], with 95% intervals over the pictures, the balls held fixed."""

    precision: float
    recall: float
    precision_interval: Interval
    recall_interval: Interval


class DensityCoverage(NamedTuple):
    """Density (about 1 for a perfect model, may be larger) and coverage in [0, 1]."""

    density: float
    coverage: float
    density_interval: Interval
    coverage_interval: Interval


def precision_recall(
    real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m d"], *, k: int = 3
) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991).

    Precision: the share of fakes within the distance of some real picture to its k-th
    nearest real one; recall: the same with the parts exchanged. As ADM's script (on the
    pool features of Inception) and torch-fidelity have it.

    Raises:
      ValueError: if a set has k pictures or fewer.
    """
    real, fake = _centred(real, fake)
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    inside = np.zeros(len(fake), bool)
    covered = np.zeros(len(real), bool)
    for i, j, squared in _blocks(real, fake):
        inside[j] |= (squared <= real_radii[i, None]).any(axis=0)
        covered[i] |= (squared <= fake_radii[None, j]).any(axis=1)
    return PrecisionRecall(
        float(inside.mean()),
        float(covered.mean()),
        mean_interval(inside),
        mean_interval(covered),
    )


def density_coverage(
    real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m d"], *, k: int = 5
) -> DensityCoverage:
    """Naeem et al. 2020, arXiv:2002.09797, equations 5 and 6.

    Density: in how many real balls a fake lies, over k; coverage: the share of real balls
    that hold a fake. Both use balls around real pictures alone, which outliers among
    the fakes cannot inflate.

    Raises:
      ValueError: if there are k real pictures or fewer.
    """
    real, fake = _centred(real, fake)
    radii = _radii(real, k)
    hits = np.zeros(len(fake), np.int64)
    covered = np.zeros(len(real), bool)
    for i, j, squared in _blocks(real, fake):
        is_inside: Bool[np.ndarray, "i j"] = squared < radii[i, None]
        hits[j] += is_inside.sum(axis=0)
        covered[i] |= is_inside.any(axis=1)
    return DensityCoverage(
        float(hits.mean() / k),
        float(covered.mean()),
        mean_interval(hits / k),
        mean_interval(covered),
    )


def _centred(*sets: Float[np.ndarray, "n d"]) -> list[Float[np.ndarray, "n d"]]:
    """Moved by one vector: distances stay, and small norms cost them fewer digits."""
    centre = sets[0].mean(axis=0, dtype=np.float64)
    return [np.asarray(x - centre, np.float32) for x in sets]


def _radii(x: Float[np.ndarray, "n d"], k: int) -> Float[np.ndarray, " n"]:
    """Squared distance of every row to its k-th nearest other row."""
    if len(x) <= k:
        raise ValueError(
            f"{len(x)} picture(s) have no {k} nearest neighbours: take more pictures"
        )
    nearest = np.full((len(x), k + 1), np.inf, np.float32)  # and itself
    for i, _, squared in _blocks(x, x):
        candidates = np.concatenate([nearest[i], squared], axis=1)
        nearest[i] = np.partition(candidates, k, axis=1)[:, : k + 1]
    return nearest.max(axis=1)


def _blocks(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]
) -> Iterator[tuple[slice, slice, Float[np.ndarray, "i j"]]]:
    """All squared distances, block by block, with the rows and columns of each."""
    for top in range(0, len(x), BLOCK):
        rows = slice(top, min(top + BLOCK, len(x)))
        on_device = jnp.asarray(x[rows])
        for left in range(0, len(y), BLOCK):
            columns = slice(left, min(left + BLOCK, len(y)))
            yield rows, columns, np.asarray(_squared(on_device, y[columns]))


@jax.jit
def _squared(x: Float[Array, "i d"], y: Float[Array, "j d"]) -> Float[Array, "i j"]:
    products = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.square(x).sum(axis=1)[:, None] + jnp.square(y).sum(axis=1)
    return jnp.maximum(norms - 2 * products, 0)
