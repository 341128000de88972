"""Pictures to features and their statistics, batch by batch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, UInt8

from ldm_jax.evaluation.statistics import Moments, gather_rows, over_processes
from ldm_jax.features.base import FeatureNetwork
from ldm_jax.nn.jit import jit

# What a Frechet distance needs; "logits" are kept whole or not at all.
STATISTICS = ("pool", "spatial")
# Rows between two updates of the covariance, which costs d^2 whatever their number.
BUFFERED_ROWS = 2048

Extract = Callable[[UInt8[np.ndarray, "b H W 3"]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Features:
    """What is known of a set of pictures.

    Attributes:
      moments: statistics by name of a feature: "pool" and, if there are any, "spatial".
      rows: whole features by name, float32 [n d]; only those asked for.
    """

    moments: dict[str, Moments]
    rows: dict[str, Float[np.ndarray, "n d"]]

    @property
    def count(self) -> int:
        """Pictures seen, over all processes."""
        return self.moments["pool"].count


class Accumulator:
    """Features of a stream of pictures; memory does not grow but for the rows kept."""

    def __init__(self, keep: Sequence[str] = ()):
        """Keep the rows of the features named in `keep`."""
        self._keep = tuple(keep)
        self._moments: dict[str, Moments] = {}
        self._buffers: dict[str, list[np.ndarray]] = {}
        self._rows: dict[str, list[np.ndarray]] = {name: [] for name in keep}

    def add(self, features: dict[str, np.ndarray]) -> None:
        """Take the features of one batch."""
        for name in self._keep:
            self._rows[name].append(features[name])
        for name in STATISTICS:
            if name in features:
                buffer = self._buffers.setdefault(name, [])
                buffer.append(features[name])
                if sum(map(len, buffer)) >= BUFFERED_ROWS:
                    self._flush(name)

    def result(self) -> Features:
        """Of all processes together; each of them must call it.

        Raises:
          ValueError: if there was no picture.
        """
        if not self._buffers:
            raise ValueError("there are no pictures to evaluate: give some")
        for name in self._buffers:
            self._flush(name)
        moments, rows = self._moments, {}
        for name, parts in self._rows.items():
            rows[name] = np.concatenate(parts)
        if jax.process_count() > 1:
            moments = {name: over_processes(m) for name, m in moments.items()}
            rows = {name: gather_rows(part) for name, part in rows.items()}
        return Features(moments, rows)

    def _flush(self, name: str) -> None:
        buffer = self._buffers[name]
        if buffer:
            seen = Moments.of(np.concatenate(buffer))
            known = self._moments.get(name)
            self._moments[name] = seen if known is None else known.merge(seen)
            buffer.clear()


def extract_fn(network: FeatureNetwork, batch_size: int) -> Extract:
    """The network on all local devices: pixels of up to `batch_size` pictures to features.

    Smaller batches are padded, so that only one program is compiled for a picture size.
    """
    devices = np.array(jax.local_devices())
    if batch_size % len(devices):
        devices = devices[:1]
    mesh = Mesh(devices, ("data",))
    params = jax.device_put(network.params, NamedSharding(mesh, P()))
    apply = jit(network.apply)

    def extract(pixels: np.ndarray) -> dict[str, np.ndarray]:
        padding = [(0, batch_size - len(pixels)), (0, 0), (0, 0), (0, 0)]
        batch = np.pad(pixels, padding)
        on_devices = jax.device_put(batch, NamedSharding(mesh, P("data")))
        found = apply(params, on_devices)
        return {name: np.asarray(x)[: len(pixels)] for name, x in found.items()}

    return extract


def extract_all(
    network: FeatureNetwork,
    batches: Iterable[UInt8[np.ndarray, "b H W 3"]],
    *,
    batch_size: int,
    keep: Sequence[str] = (),
) -> Features:
    """The features of all `batches`, each of at most `batch_size` pictures.

    Raises:
      ValueError: if there is no picture.
    """
    extract, accumulator = extract_fn(network, batch_size), Accumulator(keep)
    for pixels in batches:
        accumulator.add(extract(pixels))
    return accumulator.result()
