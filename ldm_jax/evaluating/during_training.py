"""Feature metrics while a model trains, the best checkpoint by one, curves, health."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from ldm_jax import build
from ldm_jax.arrays import image_to_pixels
from ldm_jax.data.pipeline import eval_batches
from ldm_jax.evaluating.best_checkpoint import BestCheckpoint
from ldm_jax.evaluating.first_stage import FEATURE_METRICS
from ldm_jax.evaluating.picture_sets import choose
from ldm_jax.evaluation import sample_metrics
from ldm_jax.evaluation.curves import draw_curves
from ldm_jax.evaluation.extraction import Accumulator, Features, extract_fn
from ldm_jax.evaluation.health import diagnose
from ldm_jax.features.networks import find_network
from ldm_jax.nn.jit import jit
from ldm_jax.rng import example_keys, named_key
from ldm_jax.run_data import Run
from ldm_jax.sample_fn import make_sample_fn
from ldm_jax.training import loop, sharding
from ldm_jax.training.metrics import Writer
from ldm_jax.training.state import TrainState

PyTree = Any
Pixels = np.ndarray
# `(step's state, batch, rows) -> pixels` of samples or reconstructions.
Make = Callable[[TrainState, dict[str, np.ndarray], np.ndarray], Pixels]

logger = logging.getLogger(__name__)


def check(config: ConfigDict) -> None:
    """Refuse metrics that do not fit, or a network without weights.

    Raises:
      ValueError, FileNotFoundError: one sentence.
    """
    if not every(config):
        return
    section = config.evaluation
    known = FEATURE_METRICS if config.task == "autoencoding" else sample_metrics.NEEDS
    if not section.metrics:
        raise ValueError(
            f"config.evaluation.metrics is empty: name some of {', '.join(known)}, or set "
            "config.evaluation.every=0"
        )
    sample_metrics.check_names(section.metrics, known)
    for name in ("num_samples", "num_reference"):
        if section[name] < 2:
            raise ValueError(
                f"config.evaluation.{name} is {section[name]}: it must be 2 or more"
            )
    find_network(section.network, section.network_path or None)


def every(config: ConfigDict) -> int:
    """Steps between two measurements; 0 for none."""
    return config.get("evaluation", {}).get("every", 0)


def measure_hook(run: Run, writers: Sequence[Writer]) -> loop.Hook:
    """Measures, writes `val/<metric>`, keeps the best; builds nothing until called."""

    @cache
    def parts() -> tuple[Callable[[TrainState], dict[str, float]], BestCheckpoint]:
        return _measure_fn(run), BestCheckpoint(run.workdir, run.config)

    def hook(step: int, state: TrainState, _: Any) -> None:
        measure, best = parts()
        values = measure(state)
        for writer in writers:
            writer.write_scalars(step, {f"val/{n}": v for n, v in values.items()})
        name, value = next(iter(values.items()))
        best.offer(state, name, value, class_names=run.source.class_names)

    return hook


def curves_hook(run: Run, writers: Sequence[Writer]) -> loop.Hook:
    """Draws curves.png from metrics.jsonl, and says what looks wrong in a first stage."""
    said: set[str] = set()

    def hook(step: int, state: TrainState, _: Any) -> None:
        del state
        rows = read_rows(run.workdir / "metrics.jsonl")
        if jax.process_index() != 0 or not rows:
            return
        notes = diagnose(rows, **_facts(run.config))
        for note in notes:
            if note.partition(":")[0] not in said:
                said.add(note.partition(":")[0])
                logger.warning("step %d: %s", step, note)
        pixels = draw_curves(rows, notes)
        path = run.workdir / "curves.png"
        partial_path = path.with_suffix(".partial")
        Image.fromarray(pixels).save(partial_path, format="png")
        os.replace(partial_path, path)
        for writer in writers:
            writer.write_image(step, "curves", pixels)

    return hook


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; none if there is no such file yet."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def _facts(config: ConfigDict) -> dict[str, int]:
    """What the health of a codebook is measured by."""
    if config.task != "autoencoding" or "num_embeddings" not in config.autoencoder:
        return {}
    side = config.data.image_size // 2 ** (len(config.autoencoder.ch_mult) - 1)
    vectors = side * side * config.train.batch_size // config.train.grad_accumulation
    num_codes = config.autoencoder.num_embeddings
    return {"num_codes": num_codes, "vectors_per_batch": vectors}


def _measure_fn(run: Run) -> Callable[[TrainState], dict[str, float]]:
    """A state to its metrics; the real pictures are looked at once."""
    section = run.config.evaluation
    network = find_network(section.network, section.network_path or None)
    is_first_stage = run.experiment.ldm is None
    metrics = tuple(section.metrics)
    if is_first_stage:
        metrics = tuple(FEATURE_METRICS[name] for name in metrics)
    keep_fake, keep_real = sample_metrics.rows_to_keep(metrics)
    if is_first_stage:
        source = choose(run.validation, section.num_samples, 0)
        make, real_source = _reconstruct_fn(run), source
    else:
        source = choose(run.source, section.num_samples, 1)
        make = _sample_fn(run)
        real_source = choose(run.source, section.num_reference, 0)
    extract = extract_fn(network, run.config.train.batch_size)
    known: list[Features] = []

    def measure(state: TrainState) -> dict[str, float]:
        if not known:
            originals = (
                (_originals(batch), n) for batch, _, n in _rows(run, real_source)
            )
            known.append(_features(extract, originals, keep_real))
        made = (
            (make(state, batch, rows)[:n], n) for batch, rows, n in _rows(run, source)
        )
        fake = _features(extract, made, keep_fake)
        found = sample_metrics.compute(
            metrics, real=known[0], fake=fake, network=network
        )
        prefix = "r" if is_first_stage else ""
        return {f"{prefix}{name}": value for name, value in found.values.items()}

    return measure


def _rows(run: Run, source: Any) -> Iterator[tuple[dict, np.ndarray, int]]:
    """Whole batches of `source` with their row numbers and how many of them count.

    Every process has them all, for the model computes over all devices together.
    """
    transform = run.transform.for_evaluation()
    size = run.config.train.batch_size
    with closing(eval_batches(source, transform, batch_size=size)) as batches:
        for index, batch in enumerate(batches):
            count = min(size, len(source) - index * size)
            yield dict(batch), np.arange(index * size, (index + 1) * size), count


def _originals(batch: dict[str, np.ndarray]) -> Pixels:
    return np.rint((batch["image"] + 1) * 127.5).astype(np.uint8)


def _features(
    extract: Callable, batches: Iterator[tuple[Pixels, int]], keep: Sequence[str]
) -> Features:
    """Each process looks at every n-th batch."""
    accumulator = Accumulator(keep)
    for index, (pixels, count) in enumerate(batches):
        if index % jax.process_count() == jax.process_index():
            accumulator.add(extract(pixels[:count]))
    return accumulator.result()


def _averaged(state: TrainState) -> dict[str, PyTree]:
    return {**state.params, **(state.ema or {})}


def _reconstruct_fn(run: Run) -> Make:
    module = run.experiment.autoencoder

    @partial(jit, out_shardings=sharding.replicated(run.mesh))
    def reconstruct(params: PyTree, image: jax.Array) -> jax.Array:
        return image_to_pixels(build.reconstruct(module, params, image))

    def make(state: TrainState, batch: dict, rows: np.ndarray) -> Pixels:
        del rows
        image = run.put_whole(batch)["image"]
        return np.asarray(reconstruct(_averaged(state)["autoencoder"], image))

    return make


def _sample_fn(run: Run) -> Make:
    """Samples with the config's sampler, under the conditions of training pictures."""
    config, ldm = run.config, run.experiment.ldm
    size = config.train.batch_size
    side = config.data.image_size // ldm.autoencoder.downsampling_factor
    draw = make_sample_fn(
        ldm,
        build.sampler(config.sampler),
        batch_size=size,
        latent_size=(side, side),
        decode_chunk_size=16,
    )
    plan = build.sampling_plan(config.sampler, ldm.schedule)
    guidance = None if ldm.conditioner is None else build.guidance(config.sampler)
    key = named_key(run.key, "evaluation")

    @partial(jit, out_shardings=sharding.replicated(run.mesh))
    def sample(params, collections, frozen, batch, rows):
        weights = {**frozen, **params, "latent_scale": collections["latent_scale"]}
        keys = example_keys(key, rows)
        return image_to_pixels(draw(weights, keys, plan, batch, guidance=guidance))

    def make(state: TrainState, batch: dict, rows: np.ndarray) -> Pixels:
        params, fields = _averaged(state), run.put_whole(batch)
        pixels = sample(
            params, state.collections, run.frozen, fields, jnp.asarray(rows)
        )
        return np.asarray(pixels)

    return make
