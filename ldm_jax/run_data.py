"""What a run reads: batches for training and validation, latents it has cached."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ldm_jax import build, trees
from ldm_jax.data.latent_cache import (
    ChooseFlip,
    LatentSource,
    cache_key,
    write_latent_cache,
)
from ldm_jax.data.pipeline import Loader, eval_batches, make_loader
from ldm_jax.data.transforms import SquareImage, WithMirror
from ldm_jax.training import sharding

PyTree = Any
Batch = Mapping[str, Any]

FIELDS = ("image", "moments", "class_label")  # what a step reads; the rest stays here


@dataclasses.dataclass(frozen=True)
class Run:
    """What the parts of a run share."""

    config: ConfigDict
    workdir: Path
    experiment: build.Experiment
    source: Any
    transform: SquareImage
    mesh: jax.sharding.Mesh
    frozen: PyTree
    key: jax.Array

    def put(self, batch: Batch) -> dict[str, jax.Array]:
        """The fields a step reads, as global arrays."""
        chosen = {name: batch[name] for name in FIELDS if name in batch}
        return sharding.put_batch(chosen, sharding.batch_sharding(self.mesh))


def loader(run: Run, source: Any, transform: Any, *, start_step: int = 0) -> Loader:
    """This process's share of the batches from `start_step` on."""
    return make_loader(
        source,
        transform,
        batch_size=run.config.train.batch_size,
        seed=run.config.train.seed,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_workers=run.config.data.num_workers,
    )


def train_source(run: Run) -> tuple[Any, Any]:
    """Pictures with their transform, or cached latents with theirs."""
    source, transform = run.source, run.transform
    if run.config.task != "denoising" or not run.config.latent.cache:
        return source, transform
    if not transform.is_cacheable:
        raise ValueError(
            "config.latent.cache needs one square per picture: set "
            "--config.data.crop=center or --config.latent.cache=False"
        )
    encoder, plain = run.experiment.autoencoder, transform.for_evaluation()
    key = cache_key(
        first_stage=_hash(run.frozen["autoencoder"]),
        autoencoder=repr(encoder),
        source=source.fingerprint(),
        transform=repr(plain),
    )
    batch_size = run.config.train.batch_size
    encode = jax.jit(
        lambda params, image: (
            encoder.apply({"params": params}, image, method="encode").moments
        )
    )

    def moments() -> Iterator[dict[str, np.ndarray]]:
        pairs = eval_batches(source, WithMirror(plain), batch_size=batch_size)
        for batch in pairs:
            both = [
                np.asarray(encode(run.frozen["autoencoder"], batch["image"][:, i]))
                for i in range(2)
            ]
            yield {"moments": np.stack(both, axis=1), "index": batch["index"]}

    folder = run.workdir / "latents"
    cache = write_latent_cache(folder, key, moments(), length=len(source))
    return LatentSource(cache, source), ChooseFlip(run.config.data.flip_rate)


def validation_batches(run: Run) -> Callable[[], Iterator[Batch]]:
    """Every call gives the same pictures in the same order."""
    source, transform = build.data(run.config, split="val")
    batch_size = run.config.train.batch_size
    num_batches = -(-run.config.data.num_validation // batch_size)

    def batches() -> Iterator[Batch]:
        whole = eval_batches(source, transform.for_evaluation(), batch_size=batch_size)
        with closing(whole):
            yield from islice(whole, num_batches)

    return batches


def _hash(tree: PyTree) -> str:
    digest = hashlib.sha256()
    for name, leaf in trees.flatten(tree).items():
        digest.update(name.encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
