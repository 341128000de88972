"""What a number must state to be compared with another, and when it may not be.

The protocol of the paper's tables: 50,000 pictures, 8-bit and not compressed with loss,
against the whole training set at the same size, with torch-fidelity's Inception.
"""

from collections.abc import Mapping
from typing import Any

PAPER_SAMPLES = 50_000


def not_comparable(protocol: Mapping[str, Any]) -> list[str]:
    """Why the numbers are not those of the paper's tables; empty if they are.

    Args:
      protocol: `network`, `samples`, `reference` and, from a first stage,
        `autoencoder`, as evaluate.py writes them.
    """
    network, samples = protocol.get("network"), protocol["samples"]
    reasons = [] if network is None else _network_reasons(network)
    if "autoencoder" in protocol:
        return reasons + _first_stage_reasons(samples)
    reasons += _sample_reasons(samples)
    return reasons + _reference_reasons(protocol["reference"], samples)


def _network_reasons(network: Mapping[str, Any]) -> list[str]:
    if network["name"] != "inception":
        return [
            f"the features are those of {network['name']}, not of the FID Inception"
        ]
    if not network["is_published"]:
        return ["the Inception weights are not the published ones"]
    return []


def _sample_reasons(samples: Mapping[str, Any]) -> list[str]:
    reasons = []
    if samples["count"] != PAPER_SAMPLES:
        reasons.append(
            f"there are {samples['count']:,} samples instead of {PAPER_SAMPLES:,}"
        )
    return reasons + _format_reasons(samples, "samples")


def _format_reasons(pictures: Mapping[str, Any], what: str) -> list[str]:
    reasons = []
    number_format = pictures.get("number_format", "")
    if "lossy" in number_format:
        reasons.append(f"the {what} are compressed with loss ({number_format})")
    elif "rounded" in number_format:
        reasons.append(
            f"the {what} are rounded to 8 bits, where the paper's scripts truncate"
        )
    if "resized" in number_format:
        reasons.append(f"the {what} were resized")
    return reasons


def _reference_reasons(
    reference: Mapping[str, Any], samples: Mapping[str, Any]
) -> list[str]:
    if not reference.get("image_size"):
        return ["the reference does not say how it was made"]
    reasons = []
    if list(reference["image_size"]) != list(samples["image_size"]):
        reasons.append(
            f"the reference has pictures of {_size(reference)}, the samples of "
            f"{_size(samples)}"
        )
    if reference.get("split") != "train":
        reasons.append(
            f"the reference is the split {reference.get('split')!r}, not the training set"
        )
    of = reference.get("source_count", reference["count"])
    if reference["count"] != of:
        reasons.append(
            f"the reference is {reference['count']:,} of the {of:,} training pictures"
        )
    trained_with, made_with = samples.get("resize"), reference.get("resize")
    if trained_with and made_with and trained_with != made_with:
        reasons.append(
            f"the reference was resized with {made_with!r}, the training pictures with "
            f"{trained_with!r}"
        )
    return reasons


def _first_stage_reasons(samples: Mapping[str, Any]) -> list[str]:
    reasons = []
    if samples["count"] != PAPER_SAMPLES or list(samples["image_size"]) != [256, 256]:
        reasons.append(
            f"there are {samples['count']:,} pictures of {_size(samples)}, not the 50,000 "
            "of ImageNet's validation split at 256x256"
        )
    return reasons


def _size(pictures: Mapping[str, Any]) -> str:
    return "x".join(str(size) for size in pictures["image_size"])
