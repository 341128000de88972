"""What a run reads: batches for training and validation, latents it has cached."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportReturnType=false, reportTypedDictNotRequiredAccess=false

import dataclasses
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from ldm_jax import build, trees
from ldm_jax.data.latent_cache import (
    ChooseFlip,
    LatentCache,
    LatentSource,
    cache_key,
    open_latent_cache,
    write_latent_cache,
)
from ldm_jax.data.pipeline import Loader, eval_batches, make_loader
from ldm_jax.data.transforms import Chain, PreparePicture, WithMirror
from ldm_jax.nn.jit import jit
from ldm_jax.training import sharding

PyTree = Any
Batch = Mapping[str, Any]

# What every model computes with, beside what its conditioner reads.
FIELDS = ("image", "moments", "mask")


@dataclasses.dataclass(frozen=True)
class Run:
    """What the parts of a run share.

    Attributes:
      source, transform: of the training pictures.
      validation, validation_transform: of those of the split `val`, without chance.
    """

    config: ConfigDict
    workdir: Path
    experiment: build.Experiment
    source: Any
    transform: PreparePicture
    validation: Any
    validation_transform: PreparePicture
    mesh: jax.sharding.Mesh
    frozen: PyTree
    key: jax.Array

    def computed(self, batch: Batch) -> dict[str, Any]:
        """The fields that the model computes with; the rest stays on the host."""
        ldm = self.experiment.ldm
        read = getattr(ldm.conditioner, "fields", ()) if ldm else ()
        return {name: batch[name] for name in (*FIELDS, *read) if name in batch}

    def put(self, batch: Batch) -> dict[str, jax.Array]:
        """What is computed with of this process's rows of a batch, as global arrays."""
        return sharding.put_batch(
            self.computed(batch), sharding.batch_sharding(self.mesh)
        )

    def put_whole(self, batch: Batch) -> dict[str, jax.Array]:
        """The same for a global batch, all of which every process has."""
        rows = self.rows(len(next(iter(batch.values()))))
        return self.put({name: value[rows] for name, value in batch.items()})

    def rows(self, batch_size: int) -> np.ndarray:
        """Which rows of a global batch this process's devices hold."""
        return sharding.process_rows(sharding.batch_sharding(self.mesh), batch_size)


def loader(run: Run, source: Any, transform: Any, *, start_step: int = 0) -> Loader:
    """This process's share of the batches from `start_step` on."""
    return make_loader(
        source,
        transform,
        batch_size=run.config.train.batch_size,
        seed=run.config.train.seed,
        start_step=start_step,
        rows=run.rows(run.config.train.batch_size),
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
    encoder, plain = run.experiment.autoencoder, transform.square.for_evaluation()
    key = cache_key(
        first_stage=_hash(run.frozen["autoencoder"]),
        autoencoder=repr(encoder),
        source=source.fingerprint(),
        transform=repr(plain),
    )
    folder = run.workdir / "latents"
    cache = open_latent_cache(folder, key)
    if cache is None:
        cache = _write_latents(run, folder, key, plain)
    flip = ChooseFlip(transform.square.flip_rate)
    return LatentSource(cache, source), Chain((flip, *transform.conditions))


def _write_latents(run: Run, folder: Path, key: str, plain: Any) -> LatentCache:
    """Encode every picture and its mirror image: all processes compute, the first writes."""
    encoder, source = run.experiment.autoencoder, run.source

    @partial(jit, out_shardings=sharding.replicated(run.mesh))
    def encode(params: PyTree, image: jax.Array) -> jax.Array:
        return encoder.apply({"params": params}, image, method="encode").moments

    def moments() -> Iterator[dict[str, np.ndarray]]:
        pairs = eval_batches(
            source, WithMirror(plain), batch_size=run.config.train.batch_size
        )
        for batch in pairs:
            images = [run.put_whole({"image": batch["image"][:, i]}) for i in range(2)]
            params = run.frozen["autoencoder"]
            both = [np.asarray(encode(params, image["image"])) for image in images]
            yield {"moments": np.stack(both, axis=1), "index": batch["index"]}

    if jax.process_index() == 0:
        write_latent_cache(folder, key, moments(), length=len(source))
    else:
        deque(moments(), maxlen=0)
    multihost_utils.sync_global_devices("the latent cache is written")
    cache = open_latent_cache(folder, key)
    if cache is None:
        raise ValueError(
            f"{folder} has no latents although the first process wrote them: give a "
            "--workdir on a disk that all processes share"
        )
    return cache


def validation_batches(run: Run) -> Callable[[], Iterator[Batch]]:
    """Every call gives the same pictures in the same order."""
    source, transform = run.validation, run.validation_transform
    batch_size = run.config.train.batch_size
    num_batches = -(-run.config.data.num_validation // batch_size)

    def batches() -> Iterator[Batch]:
        whole = eval_batches(source, transform, batch_size=batch_size)
        with closing(whole):
            yield from islice(whole, num_batches)

    return batches


def _hash(tree: PyTree) -> str:
    digest = hashlib.sha256()
    for name, leaf in trees.flatten(tree).items():
        digest.update(name.encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
