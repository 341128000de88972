"""How many pictures a second the input pipeline gives."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import os
import time
from collections.abc import Iterator
from contextlib import closing

from ml_collections import ConfigDict

from ldm_jax.data.pipeline import make_loader
from ldm_jax.data.sources import open_source
from ldm_jax.data.transforms import PreparePicture, SquareImage
from ldm_jax.doctor.sections import Row

DEFAULT_SOURCE = "emoji64"
DEFAULT_SIZE = 64
BATCH_SIZE = 32


def measure(
    config: ConfigDict | None, source: str | None, seconds: float
) -> Iterator[Row]:
    """Read, decode and cut pictures for some seconds, by threads of this process.

    Args:
      config: whose size, resizing and source (unless `source` is given) to take.
      source: as config.data.source.

    Raises:
      FileNotFoundError, ValueError: one sentence: no such source.
    """
    size, resize, crop, num_workers = DEFAULT_SIZE, "smallest", "center", 0
    if config is not None:
        data = config.data
        size, resize, crop = data.image_size, data.resize, data.crop
        num_workers, source = data.num_workers, source or data.source
    source = source or DEFAULT_SOURCE
    transform = PreparePicture(SquareImage(size, resize=resize, crop=crop), ())
    opened = open_source(source)
    yield source, f"{len(opened):,} pictures, as {size}x{size}"
    loader = make_loader(
        opened, transform, batch_size=BATCH_SIZE, seed=0, num_workers=num_workers
    )
    with closing(loader):
        next(loader)  # threads start
        started, count = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < seconds:
            next(loader)
            count += BATCH_SIZE
    rate, cores = count / elapsed, os.cpu_count() or 1
    yield "rate", f"{rate:,.0f} pictures a second, {rate / cores:,.0f} a core"
    waits = "a faster step waits: more config.data.num_workers, or config.latent.cache"
    yield "enough for", f"steps of 32 pictures every {32 / rate:.3f} s; {waits}"
