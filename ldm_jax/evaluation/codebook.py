"""How much of a codebook a data set uses."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Num


class CodebookUsage(NamedTuple):
    """Share of the codes that occur at all, and exp(entropy) of how often they do."""

    share: float
    perplexity: float


def codebook_usage(counts: Num[np.ndarray, " k"]) -> CodebookUsage:
    """From how often each code occurs over the whole set.

    A batch, as the training logs it, cannot use more codes than it has vectors.

    Raises:
      ValueError: if no code occurs.
    """
    total = counts.sum()
    if total == 0:
        raise ValueError("no codes were counted: give a source with pictures")
    p = counts[counts > 0] / total
    return CodebookUsage(
        float((counts > 0).mean()), float(np.exp(-(p * np.log(p)).sum()))
    )
