"""Evaluation as evaluate.py does it: pictures, references and models to a report."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldm_jax.evaluating.picture_sets import PictureSet
from ldm_jax.evaluating.picture_stream import Hashed, shown
from ldm_jax.evaluation import sample_metrics
from ldm_jax.evaluation.extraction import Features, extract_all
from ldm_jax.evaluation.protocol import not_comparable
from ldm_jax.evaluation.references import Reference, write_reference
from ldm_jax.evaluation.sample_metrics import Result, rows_to_keep
from ldm_jax.features.base import FeatureNetwork

# Of the samples against the reference, if none are named; what it allows of these.
DEFAULT_METRICS = ("fid", "kid", "prec_recall")


@dataclass(frozen=True)
class Report:
    """Numbers with all that is needed to make them again.

    Attributes:
      result: the numbers.
      protocol: network, samples, reference, settings.
      speed: pictures through the whole evaluation, a second.
    """

    result: Result
    protocol: dict[str, Any]
    speed: float

    @property
    def reasons(self) -> list[str]:
        """Why the numbers are not those of the paper's tables."""
        return not_comparable(self.protocol)

    def as_dict(self) -> dict[str, Any]:
        """What metrics.json holds."""
        return {
            "metrics": self.result.values,
            "intervals_95": {k: list(v) for k, v in self.result.intervals.items()},
            "protocol": {**self.protocol, "settings": self.result.settings},
            "comparable": not self.reasons,
            "not_comparable_because": self.reasons,
            "warnings": self.result.warnings,
            "images_per_sec": self.speed,
        }

    def as_text(self) -> str:
        """The table, and a line on whether it may be compared."""
        width = max(len(name) for name in self.result.values)
        lines = []
        for name, value in self.result.values.items():
            line = f"{name:<{width}}  {value:>12.6g}"
            if name in self.result.intervals:
                low, high = self.result.intervals[name]
                line += f"   [{low:.6g}, {high:.6g}]"
            lines.append(line)
        lines += [f"warning: {warning}" for warning in self.result.warnings]
        if self.reasons:
            lines.append(
                "not comparable with the paper's tables because "
                + "; ".join(self.reasons)
            )
        else:
            lines.append("comparable with the paper's tables")
        return "\n".join(lines)


def write_report(report: Report, path: str | Path) -> None:
    """Write metrics.json, whole or not at all; process 0 alone."""
    if jax.process_index() != 0:
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(report.as_dict(), indent=2) + "\n")
    os.replace(partial, path)


def evaluate_samples(
    samples: PictureSet,
    reference: PictureSet | Reference,
    network: FeatureNetwork,
    *,
    metrics: Sequence[str] | None = None,
    batch_size: int = 64,
) -> Report:
    """Samples against real pictures, or statistics of them.

    Args:
      metrics: names in `sample_metrics.NEEDS`; None for those of `DEFAULT_METRICS` that
        the reference allows.

    Raises:
      ValueError: if the reference is of another network, or lacks what a metric needs.
    """
    started = time.monotonic()
    if isinstance(reference, Reference):
        check_network(reference, network, samples.image_size)
    metrics = metrics or _possible(reference)
    keep_fake, keep_real = rows_to_keep(metrics)
    if isinstance(reference, PictureSet):
        reference = make_reference(
            reference, network, keep=keep_real, batch_size=batch_size
        )
    # Before the samples, which may take hours, are drawn.
    sample_metrics.check(metrics, reference.features, network)
    fake, recipe = features_of(
        samples, network, keep=keep_fake, batch_size=batch_size, what="samples"
    )
    result = sample_metrics.compute(
        metrics, real=reference.features, fake=fake, network=network
    )
    protocol = {
        "network": network_recipe(network),
        "samples": recipe,
        "reference": {"count": reference.features.count, **reference.recipe},
    }
    speed = samples.count / (time.monotonic() - started)
    return Report(result, protocol, speed)


def make_reference(
    pictures: PictureSet,
    network: FeatureNetwork,
    *,
    keep: Sequence[str] = (),
    batch_size: int = 64,
    path: str | Path | None = None,
) -> Reference:
    """Statistics of real pictures, with their recipe; written to `path` if given.

    Args:
      keep: features to keep whole: "pool" for KID, precision and recall.
    """
    features, recipe = features_of(
        pictures, network, keep=keep, batch_size=batch_size, what="reference"
    )
    recipe["network"] = network_recipe(network)
    reference = Reference(features, recipe)
    if path is not None and jax.process_index() == 0:
        write_reference(path, reference)
    return reference


def features_of(
    pictures: PictureSet,
    network: FeatureNetwork,
    *,
    keep: Sequence[str],
    batch_size: int,
    what: str,
) -> tuple[Features, dict[str, Any]]:
    """Features of a set, and its recipe with count and hash of the pixels."""
    batches = shown(pictures.batches(batch_size), pictures.count, what)
    hashed = Hashed(batches)
    features = extract_all(network, hashed, batch_size=batch_size, keep=keep)
    recipe = pictures.protocol | {"count": features.count}
    if jax.process_count() == 1:
        recipe["pixels_sha256"] = hashed.sha256
    return features, recipe


def network_recipe(network: FeatureNetwork) -> dict[str, Any]:
    """What identifies the features."""
    return {
        "name": network.name,
        "weights_sha256": network.weights_sha256,
        "is_published": network.is_published,
        "preprocessing": network.preprocessing,
    }


def check_network(
    reference: Reference, network: FeatureNetwork, image_size: tuple[int, int]
) -> None:
    """Refuse statistics of other features.

    Raises:
      ValueError: with both networks.
    """
    made_with = reference.recipe.get("network")
    if made_with is None:  # of another tool
        pixels = jax.ShapeDtypeStruct((1, *image_size, 3), np.uint8)
        width = jax.eval_shape(network.apply, network.params, pixels)["pool"].shape[1]
        found = reference.features.moments["pool"].width
        if found != width:
            raise ValueError(
                f"the reference has {found} features and {network.name} has {width}: "
                "give another reference or --network"
            )
        return
    theirs = made_with["name"], made_with["weights_sha256"]
    ours = network.name, network.weights_sha256
    if theirs != ours:
        raise ValueError(
            f"the reference is made of {theirs[0]} features (weights {theirs[1][:12]}) "
            f"and these are {ours[0]} ({ours[1][:12]}): give --network={theirs[0]} with "
            "the same weights, or another reference"
        )


def _possible(reference: PictureSet | Reference) -> tuple[str, ...]:
    if isinstance(reference, PictureSet):
        return DEFAULT_METRICS
    rows = reference.features.rows
    return tuple(
        name
        for name in DEFAULT_METRICS
        if set(sample_metrics.NEEDS[name][1]) <= rows.keys()
    )
