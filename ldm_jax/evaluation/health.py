"""What goes wrong in the training of a first stage, told from the metrics it logs.

Each rule looks at the last logged rows, and each sentence states the figures that it
rests on. Thresholds are chosen to stay silent on healthy runs; they are no theory.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Row = Mapping[str, float | None]

# Rows to take the mean of, and the fewest that say anything.
WINDOW, MIN_ROWS = 10, 3
# The loss is 1 (hinge) or 0.7 (vanilla) for a discriminator that knows nothing, and 0
# for one that is sure; the gap is between its mean logits.
STRONG_LOSS, STRONG_GAP = 0.2, 3.0
# Of a codebook's entries, or of as many as a batch has vectors if that is less.
COLLAPSED_SHARE = 0.02
# Mean standard deviation of the posterior; the prior's is 1.
COLLAPSED_STD = 0.95
# How much worse than its best, at two evaluations in a row.
WORSE = 1.2


def diagnose(
    rows: Sequence[Row],
    *,
    num_codes: int = 0,
    vectors_per_batch: int = 0,
) -> list[str]:
    """Sentences about what is wrong, most urgent first; empty for a healthy run.

    Args:
      rows: of metrics.jsonl, oldest first.
      num_codes: entries of the codebook; 0 without one.
      vectors_per_batch: latent vectors of a training batch.
    """
    mean = _means(rows)
    limit = min(num_codes, vectors_per_batch) or num_codes
    found = [
        _strong_discriminator(mean),
        _codebook_collapse(mean, limit),
        _posterior_collapse(mean),
        _getting_worse(rows),
    ]
    return [sentence for sentence in found if sentence]


def _means(rows: Sequence[Row]) -> Callable[[str], float | None]:
    """Mean of a metric over its last rows, None if there are too few of them."""

    def mean(name: str) -> float | None:
        last = [v for row in rows if (v := row.get(name)) is not None][-WINDOW:]
        return float(np.mean(last)) if len(last) >= MIN_ROWS else None

    return mean


def _strong_discriminator(mean: Callable[[str], float | None]) -> str | None:
    loss, factor = mean("discriminator/disc_loss"), mean("generator/disc_factor")
    real, fake = mean("discriminator/logits_real"), mean("discriminator/logits_fake")
    if not factor or loss is None or real is None or fake is None:
        return None  # it has not started
    if loss / factor < STRONG_LOSS and real - fake > STRONG_GAP:
        return (
            f"the discriminator is too strong: its loss is {loss:.3g} and it tells real "
            f"({real:.2g}) from fake ({fake:.2g}) at every patch, so it has little to "
            "teach: lower adversarial.disc_weight, start it later, or make it smaller"
        )
    return None


def _codebook_collapse(mean: Callable[[str], float | None], limit: int) -> str | None:
    perplexity = mean("generator/perplexity")
    if perplexity is None or not limit or perplexity >= COLLAPSED_SHARE * limit:
        return None
    return (
        f"the codebook has collapsed: the perplexity is {perplexity:.3g} where "
        f"{limit} codes could be in use; start again with a lower learning rate or a "
        "smaller codebook"
    )


def _posterior_collapse(mean: Callable[[str], float | None]) -> str | None:
    std = mean("generator/posterior_std")
    if std is None or std <= COLLAPSED_STD:
        return None
    return (
        f"the posterior has collapsed onto the prior: its standard deviation is {std:.3g}"
        ", so the latent carries next to nothing: lower loss.regularizer_weight"
    )


def _getting_worse(rows: Sequence[Row]) -> str | None:
    names = {name for row in rows for name in row if name.startswith("val/rf")}
    for name in sorted(names):
        values = [v for row in rows if (v := row.get(name)) is not None]
        if len(values) >= MIN_ROWS and min(values[-2:]) > WORSE * min(values):
            return (
                f"{name} was {min(values):.4g} and has been above {WORSE:g} times that at "
                f"the last two evaluations ({values[-1]:.4g}): the reconstructions are "
                "getting worse"
            )
    return None
