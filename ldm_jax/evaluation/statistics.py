"""Mean and covariance of a stream of feature vectors, in float64 on the host."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float, Float64


@dataclass(frozen=True)
class Moments:
    """First and second moments of `count` vectors.

    Sums of deviations from the mean rather than of products, merged as in Chan et al.
    1979: an offset that is large against the spread costs no digits.

    Attributes:
      count: vectors seen.
      mean: their mean.
      scatter: sum of outer products of the deviations from it.
    """

    count: int
    mean: Float64[np.ndarray, " d"]
    scatter: Float64[np.ndarray, "d d"]

    @classmethod
    def of(cls, features: Float[np.ndarray, "n d"]) -> Self:
        """The moments of the rows of one array; none of none."""
        rows = np.asarray(features, np.float64)
        count, width = rows.shape
        if count == 0:
            return cls(0, np.zeros(width), np.zeros((width, width)))
        mean = rows.mean(axis=0)
        deviations = rows - mean
        return cls(count, mean, deviations.T @ deviations)

    @classmethod
    def from_covariance(
        cls,
        mean: Float[np.ndarray, " d"],
        covariance: Float[np.ndarray, "d d"],
        count: int,
    ) -> Self:
        """What `covariance` and `mean` came from; a `count` below 2 means unknown."""
        scatter = np.asarray(covariance, np.float64) * max(count - 1, 1)
        return cls(count, np.asarray(mean, np.float64), scatter)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets together.

        Raises:
          ValueError: if the widths differ.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"features of width {len(self.mean)} and {len(other.mean)} cannot be "
                "merged: take both from one network"
            )
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        step = other.mean - self.mean
        between = np.outer(step, step) * (self.count * other.count / count)
        mean = self.mean + step * (other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Float64[np.ndarray, "d d"]:
        """The unbiased estimate, over count - 1, as numpy.cov and every FID."""
        return self.scatter / max(self.count - 1, 1)

    @property
    def width(self) -> int:
        """Features of a vector, d."""
        return len(self.mean)


def merge_all(parts: Iterable[Moments]) -> Moments:
    """The moments of all sets together.

    Raises:
      ValueError: if there are none.
    """
    parts = list(parts)
    if not parts:
        raise ValueError("there are no statistics to merge: give at least one set")
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total


def over_processes(moments: Moments) -> Moments:
    """The moments of what all processes have seen; every process must call it."""
    return merge_all(
        Moments(int(count[0]), mean, scatter)
        for count, mean, scatter in zip(
            gather(np.array([float(moments.count)])),
            gather(moments.mean),
            gather(moments.scatter),
            strict=True,
        )
    )


def gather(x: Float64[np.ndarray, "*s"]) -> Float64[np.ndarray, "p *s"]:
    """`x` of every process, stacked.

    As pairs of 32-bit words: on the way through the devices float64 would be rounded.
    """
    words = np.ascontiguousarray(x, np.float64).reshape(-1).view(np.uint32)
    gathered = np.asarray(multihost_utils.process_allgather(words, tiled=False))
    return gathered.reshape(-1, words.size).view(np.float64).reshape(-1, *x.shape)


def gather_rows(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "m d"]:
    """The rows of all processes, which may have different numbers of them, as float32."""
    counts = gather(np.array([float(len(rows))]))[:, 0].astype(int)
    padded = np.zeros((counts.max(), rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    gathered = np.asarray(multihost_utils.process_allgather(padded, tiled=False))
    gathered = gathered.reshape(len(counts), *padded.shape)
    return np.concatenate(
        [part[:count] for part, count in zip(gathered, counts, strict=True)]
    )
