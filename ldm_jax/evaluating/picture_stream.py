"""What happens to pictures on their way: a progress bar, a hash."""

import hashlib
import sys
import time
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jaxtyping import UInt8

Batches = Iterator[UInt8[np.ndarray, "b H W 3"]]


def shown(batches: Iterable[np.ndarray], total: int, what: str) -> Batches:
    """The same batches with a bar on a terminal, and a line every 30 s elsewhere."""
    if jax.process_index() != 0:
        yield from batches
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=what, unit="img") as bar:
            for batch in batches:
                yield batch
                bar.update(len(batch))
        return
    done, started = 0, time.monotonic()
    last = started
    for batch in batches:
        yield batch
        done += len(batch)
        now = time.monotonic()
        if now - last > 30 or done == total:
            rate = done / max(now - started, 1e-9)
            line = f"{what}: {done}/{total} pictures, {rate:.4g} images/s"
            print(line, file=sys.stderr, flush=True)
            last = now


class Hashed:
    """Batches, and the SHA-256 of all their pixels once they are through."""

    def __init__(self, batches: Iterable[np.ndarray]):
        """Hash what passes."""
        self._batches, self._digest = batches, hashlib.sha256()

    def __iter__(self) -> Batches:
        for batch in self._batches:
            self._digest.update(np.ascontiguousarray(batch).data)
            yield batch

    @property
    def sha256(self) -> str:
        """Of the pictures so far, in their order; of this process's share."""
        return self._digest.hexdigest()
