"""From the features of real pictures and samples to the numbers in a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ldm_jax.evaluation import inception_score as inception_score_lib
from ldm_jax.evaluation import kernel_distance
from ldm_jax.evaluation.extraction import Features
from ldm_jax.evaluation.frechet import frechet_distance, sample_warnings
from ldm_jax.evaluation.inception_score import inception_score
from ldm_jax.evaluation.kernel_distance import kid
from ldm_jax.evaluation.neighbours import density_coverage, precision_recall
from ldm_jax.features.base import FeatureNetwork

# The features whose rows a metric needs: of the samples, and of the reference.
NEEDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "fid": ((), ()),
    "sfid": ((), ()),
    "kid": (("pool",), ("pool",)),
    "is": (("logits",), ()),
    "prec_recall": (("pool",), ("pool",)),
    "density_coverage": (("pool",), ("pool",)),
}
# FID and its kin are names of Inception's features alone.
_OTHER_NAMES = {"fid": "fd", "sfid": "sfd", "kid": "kd"}


@dataclass
class Result:
    """Numbers by name, and what has to be said about them.

    Attributes:
      values: the table.
      intervals: 95% confidence intervals of some of them, by bootstrap.
      settings: of the estimators.
      warnings: sentences.
    """

    values: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def metric_name(name: str, network: FeatureNetwork) -> str:
    """`fid` with the published FID Inception, `fd_<network>` with any other."""
    if network.name == "inception" and network.is_published:
        return name
    suffix = "_custom" if network.name == "inception" else ""
    return f"{_OTHER_NAMES.get(name, name)}_{network.name}{suffix}"


def rows_to_keep(metrics: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Features whose rows these metrics need: of the samples, and of the reference.

    Raises:
      ValueError: for an unknown metric.
    """
    check_names(metrics, NEEDS)
    fake = {name for metric in metrics for name in NEEDS[metric][0]}
    real = {name for metric in metrics for name in NEEDS[metric][1]}
    return tuple(sorted(fake)), tuple(sorted(real))


def check_names(metrics: Sequence[str], known: Mapping | Sequence[str]) -> None:
    """Refuse an unknown metric.

    Raises:
      ValueError: with those there are.
    """
    for metric in metrics:
        if metric not in known:
            raise ValueError(
                f"no metric {metric!r}: choose of {', '.join(known)}, as in "
                "--metrics=fid,kid"
            )


def compute(
    metrics: Sequence[str],
    *,
    real: Features,
    fake: Features,
    network: FeatureNetwork,
) -> Result:
    """The metrics, named after the network.

    Raises:
      ValueError: if a metric needs features that the network or the reference lacks.
    """
    check(metrics, real, network)
    result = Result()
    for metric in metrics:
        _COMPUTED[metric](result, real, fake, network)
    if {"fid", "sfid"} & set(metrics):
        width = fake.moments["pool"].width
        result.warnings += sample_warnings(fake.count, width, "samples")
        result.warnings += sample_warnings(
            real.moments["pool"].count, width, "reference pictures"
        )
    return result


def check(metrics: Sequence[str], real: Features, network: FeatureNetwork) -> None:
    """Refuse what the network or the reference does not have, before any work.

    Raises:
      ValueError: one sentence for the first metric that cannot be computed.
    """
    check_names(metrics, NEEDS)
    for metric in metrics:
        if metric == "is" and network.name != "inception":
            raise ValueError(
                "the Inception Score is defined by Inception's classes, which "
                f"{network.name} does not have: leave `is` out or take "
                "--network=inception"
            )
        if metric == "sfid" and "spatial" not in real.moments:
            raise ValueError(
                "sfid needs spatial features, which the reference (or its network) does "
                "not have: leave it out"
            )
        if not set(NEEDS[metric][1]) <= real.rows.keys():
            raise ValueError(
                f"{metric} needs the features of every reference picture, and the "
                "reference holds their statistics alone: make it with --keep_features, "
                "or give the pictures themselves"
            )


def _frechet(name: str, feature: str):
    def add(
        result: Result, real: Features, fake: Features, network: FeatureNetwork
    ) -> None:
        value = frechet_distance(real.moments[feature], fake.moments[feature])
        result.values[metric_name(name, network)] = value

    return add


def _kid(
    result: Result, real: Features, fake: Features, network: FeatureNetwork
) -> None:
    a, b = fake.rows["pool"], real.rows["pool"]
    size = min(kernel_distance.SUBSET_SIZE, len(a), len(b))
    found = kid(a, b, subset_size=size)
    name = metric_name("kid", network)
    result.values |= {name: found.mean, f"{name}_std": found.std}
    result.settings["kid"] = {
        "subsets": kernel_distance.SUBSETS,
        "subset_size": size,
        "seed": kernel_distance.SEED,
    }
    if size < kernel_distance.SUBSET_SIZE:
        result.warnings.append(
            f"KID is over subsets of {size} pictures, for there are no more, instead of "
            f"the usual {kernel_distance.SUBSET_SIZE}"
        )


def _inception_score(
    result: Result, real: Features, fake: Features, network: FeatureNetwork
) -> None:
    del real
    found = inception_score(fake.rows["logits"])
    name = metric_name("is", network)
    result.values |= {name: found.mean, f"{name}_std": found.std}
    splits, seed = inception_score_lib.SPLITS, inception_score_lib.SEED
    result.settings["is"] = {"splits": splits, "shuffle_seed": seed}


def _precision_recall(
    result: Result, real: Features, fake: Features, network: FeatureNetwork
) -> None:
    found = precision_recall(real.rows["pool"], fake.rows["pool"])
    _with_intervals(result, network, found, ("precision", "recall"))
    result.settings["prec_recall"] = {"neighbours": 3, "feature": "pool"}


def _density_coverage(
    result: Result, real: Features, fake: Features, network: FeatureNetwork
) -> None:
    found = density_coverage(real.rows["pool"], fake.rows["pool"])
    _with_intervals(result, network, found, ("density", "coverage"))
    result.settings["density_coverage"] = {"neighbours": 5, "feature": "pool"}


def _with_intervals(
    result: Result, network: FeatureNetwork, found: Any, names: Sequence[str]
) -> None:
    for name in names:
        full = metric_name(name, network)
        result.values[full] = getattr(found, name)
        result.intervals[full] = tuple(getattr(found, f"{name}_interval"))


_COMPUTED = {
    "fid": _frechet("fid", "pool"),
    "sfid": _frechet("sfid", "spatial"),
    "kid": _kid,
    "is": _inception_score,
    "prec_recall": _precision_recall,
    "density_coverage": _density_coverage,
}
