"""Latent moments of a whole source on disk, for the pictures and their mirror images.

A frozen first stage gives the same moments in every epoch; reading them costs less than
encoding. Whoever has the encoder writes the cache:

    pairs = eval_batches(source, WithMirror(transform.for_evaluation()), batch_size=b)
    cache = write_latent_cache(folder, key, (encode(p) for p in pairs), length=len(source))
    loader = make_loader(LatentSource(cache, source), ChooseFlip(flip_rate), ...)

and the loader yields, for the same seed, the same pictures with the same flips as one
that reads images.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ldm_jax.data.npy import open_npy
from ldm_jax.data.records import Source
from ldm_jax.data.transforms import draw


def cache_key(**parts: Any) -> str:
    """Hash of whatever the moments depend on, as JSON values by name.

    That is the first stage's parameters and config, the source's fingerprint and the
    transform.
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass
class LatentCache:
    """A complete cache on disk, memory-mapped on first use in each process."""

    folder: Path
    key: str

    @cached_property
    def moments(self) -> Float[np.ndarray, "n 2 h w c"]:
        """Moments of every picture and of its mirror image."""
        return np.load(
            _path(self.folder, self.key, "moments.npy"),
            mmap_mode="r",
            allow_pickle=False,
        )

    @cached_property
    def index(self) -> Int[np.ndarray, " n"]:
        """The source's index of the picture whose moments stand in each row."""
        return np.array(open_npy(_path(self.folder, self.key, "index.npy")))

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "key": self.key}


def open_latent_cache(folder: Path, key: str) -> LatentCache | None:
    """The cache written for `key`, or None if there is no complete one."""
    try:
        meta = json.loads(_path(folder, key, "json").read_text())
        cache = LatentCache(Path(folder), key)
        is_whole = list(cache.moments.shape) == meta["shape"] and meta["key"] == key
        return cache if is_whole and len(cache.index) == len(cache.moments) else None
    except (OSError, ValueError, KeyError):
        return None


def write_latent_cache(
    folder: Path,
    key: str,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    length: int,
) -> LatentCache:
    """Write moments, or return the cache that is already there for this key.

    Nothing under the cache's name exists until all rows are on disk.

    Args:
      folder: made if absent; caches of several keys may share it.
      key: see `cache_key`.
      batches: dicts of `moments` `[b, 2, h, w, c]` and `index` `[b]`, in the source's
        order; rows after the first `length`, which pad the last batch, are dropped.
      length: number of pictures.

    Raises:
      ValueError: if the disk is too small or `batches` end early.
    """
    cache = open_latent_cache(folder, key)
    if cache is not None:
        return cache
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = _path(folder, key, f"partial-{os.getpid()}")
    index = np.zeros(length, np.int32)
    try:
        shape = _write_rows(partial, batches, index)
        partial.replace(_path(folder, key, "moments.npy"))
        with partial.open("wb") as file:
            np.save(file, index)
        partial.replace(_path(folder, key, "index.npy"))
        partial.write_text(json.dumps({"key": key, "shape": shape}))
        partial.replace(_path(folder, key, "json"))  # last: it says that all is there
    finally:
        partial.unlink(missing_ok=True)
    return LatentCache(folder, key)


@dataclass
class LatentSource:
    """A cache as a source: `moments` `[2, h, w, c]` in place of each picture."""

    cache: LatentCache
    source: Source

    @property
    def class_names(self) -> tuple[str, ...]:
        """As the pictures' source."""
        return self.source.class_names

    def __len__(self) -> int:
        return len(self.cache.index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Moments and annotation; a stand-in of a corrupt picture brings its own."""
        return self.annotation(index) | {"moments": self.cache.moments[index]}

    def annotation(self, index: int) -> dict[str, Any]:
        """Everything but the moments."""
        picture = int(self.cache.index[index])
        return {**self.source.annotation(picture), "index": picture}

    def fingerprint(self) -> str:
        """The cache's key."""
        return self.cache.key


@dataclass(frozen=True)
class ChooseFlip:
    """Take the moments of a picture or of its mirror image: `[2, h, w, c] -> [h, w, c]`.

    The decision is the one that `SquareImage` with this `flip_rate` makes.
    """

    flip_rate: float = 0.0

    def __call__(
        self, example: Mapping[str, Any], generator: np.random.Generator
    ) -> dict[str, Any]:
        flip = int(draw(generator).flip < self.flip_rate)
        chosen = {**example, "moments": np.array(example["moments"][flip])}
        return chosen | {"flip": np.int32(flip)} if self.flip_rate > 0 else chosen


def _path(folder: Path, key: str, suffix: str) -> Path:
    return Path(folder) / f"latents-{key[:16]}.{suffix}"


def _write_rows(
    path: Path, batches: Iterable[Mapping[str, np.ndarray]], index: np.ndarray
) -> list[int]:
    """Fill a new .npy file and `index`; return the file's shape."""
    rows, position = None, 0
    for batch in batches:
        moments = np.asarray(batch["moments"])[: len(index) - position]
        if rows is None:
            shape = (len(index), *moments.shape[1:])
            rows = _allocate(path, shape, moments.dtype)
        end = position + len(moments)
        rows[position:end] = moments
        index[position:end] = np.asarray(batch["index"])[: len(moments)]
        position = end
    if rows is None or position < len(index):
        raise ValueError(
            f"the latent cache got {position} of {len(index)} pictures: pass every "
            "batch of the source, in order"
        )
    rows.flush()
    return list(rows.shape)


def _allocate(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    size = int(np.prod(shape)) * dtype.itemsize
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise ValueError(
            f"the latent cache needs {size / 1e9:.1f} GB and {path.parent} has "
            f"{free / 1e9:.1f} GB free: make room or set latent.cache=False"
        )
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
