"""Batches from a source: a pure function of the seed and the step.

Global batch k is the same pictures, in the same order, with the same crops and flips,
whatever the number of processes and workers, and wherever the run was resumed: the only
state is the step. A process reads those of its rows that its devices hold.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Protocol, Self

import grain
import numpy as np

from ldm_jax.data.batch import Batch
from ldm_jax.data.records import Source

Transform = Callable[[Mapping[str, Any], np.random.Generator], Mapping[str, Any]]
ENDLESS = 2**56  # rows; grain adds to it, so sys.maxsize would overflow
READ_AHEAD = grain.ReadOptions(num_threads=8, prefetch_buffer_size=8)  # in batches


class Loader(Protocol):
    """An endless iterator of batches that holds threads or processes: close it."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def close(self) -> None: ...


def make_loader(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    rows: Sequence[int] | None = None,
    num_workers: int = 0,
    shuffle: bool = True,
) -> Loader:
    """Endless batches of this process, from step `start_step` on (found in O(1)).

    Text cannot go on a device: what a transform leaves as `str` is not in the batch.

    Args:
      source: examples by index; every epoch is another permutation of it.
      transform: called with an example and a generator that depends on the seed and the
        example's position in the stream alone.
      batch_size: of the global batch.
      rows: those of each global batch to yield, in this order; all if None.
      num_workers: processes that read and transform; 0 uses threads.
      shuffle: False takes the source in order, again and again.

    Raises:
      ValueError: if the source is empty, or the batch is.
      ChildProcessError: from `next`, once a worker was killed.
    """
    if len(source) == 0:
        raise ValueError("the data source is empty: give one with pictures")
    if batch_size < 1:
        raise ValueError(f"train.batch_size is {batch_size}: it must be >= 1")
    mine = [*range(batch_size)] if rows is None else [int(row) for row in rows]
    stream = grain.MapDataset.source(source).seed(seed)
    stream = (stream.shuffle() if shuffle else stream).repeat(None)
    stream = stream.random_map(transform).map(keep_numeric)

    def row(position: int) -> Any:
        step, offset = divmod(position, len(mine))
        return stream[step * batch_size + mine[offset]]

    positions = grain.MapDataset.range(start_step * len(mine), ENDLESS)
    batches = positions.map(row).batch(len(mine)).to_iter_dataset(READ_AHEAD)
    if num_workers:
        _parse_flags()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers))
        return _WithWorkers(iter(batches))
    return iter(batches)


class _WithWorkers:
    """Batches from worker processes, none after one of these was lost.

    Grain would go on without the batch that the worker had in hand.
    """

    def __init__(self, batches: Any):
        self._batches = batches
        self._loss: ChildProcessError | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self._loss is not None:
            raise self._loss
        try:
            return next(self._batches)
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):
                raise
            code = str(error).partition("exit code ")[2].partition(".")[0]
            self._loss = ChildProcessError(
                f"a worker process of the data loader ended (exit code {code}; -9 is "
                "often a lack of memory): start the run again, with fewer "
                "config.data.num_workers if it keeps happening"
            )
            raise self._loss from error

    def close(self) -> None:
        self._batches.close()


def eval_batches(
    source: Source, transform: Transform, *, batch_size: int
) -> Generator[Batch, None, None]:
    """Every picture once, in order, in full batches with a `mask`.

    The mask is 0 for the rows that fill the last batch and for stand-ins of unreadable
    pictures. Give a transform without chance (`SquareImage.for_evaluation`); one with
    chance gets the generator of seed `index`.
    """
    count = len(source)

    def row(position: int) -> Any:
        index = min(position, count - 1)
        example = source[index]
        is_new = position < count and example.get("index", index) == index
        transformed = transform(example, np.random.default_rng(index))
        return keep_numeric(transformed) | {"mask": np.float32(is_new)}

    padded = -(-count // batch_size) * batch_size
    positions = grain.MapDataset.range(padded).map(row).batch(batch_size)
    with closing(iter(positions.to_iter_dataset(READ_AHEAD))) as batches:
        yield from batches


def keep_numeric(example: Mapping[str, Any]) -> dict[str, Any]:
    """Drop text, and make Python integers int32."""
    arrays = {
        name: np.int32(value) if isinstance(value, int) else np.asarray(value)
        for name, value in example.items()
    }
    return {name: array for name, array in arrays.items() if array.dtype.kind in "biuf"}


def _parse_flags() -> None:
    """grain's workers read absl flags, which nobody parses outside absl.app.run."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
