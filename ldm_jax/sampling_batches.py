"""Many pictures in batches of one size, each from its own key."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from ldm_jax.arrays import image_to_pixels
from ldm_jax.rng import example_keys
from ldm_jax.training import sharding

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Request:
    """Pictures to draw; of arrays with fewer rows than pictures, row k % n is picture k's.

    Attributes:
      num_samples: how many.
      seed: of all their randomness.
      fields: batch fields that they are conditioned on.
      negative: fields that replace some of these for what is guided away from; None for
        the null condition.
      shared: further arrays of a `sample_fn` with a row a picture, by keyword.
    """

    num_samples: int
    seed: int
    fields: Mapping[str, np.ndarray]
    negative: Mapping[str, np.ndarray] | None
    shared: Mapping[str, PyTree]

    def batch(self, rows: np.ndarray) -> dict[str, Any]:
        """Arguments of a `sample_fn` for pictures `rows`."""

        def take(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: x[rows % len(x)], tree)

        conditioning, negative = take(dict(self.fields)), None
        if self.negative is not None:
            negative = conditioning | take(dict(self.negative))
        return {
            "key": example_keys(jax.random.key(self.seed), jnp.asarray(rows)),
            "conditioning": conditioning,
            "negative": negative,
            **take(dict(self.shared)),
        }


def draw_in_batches(
    draw: Callable[..., Any],
    params: PyTree,
    request: Request,
    batch_size: int,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[UInt8[np.ndarray, "n H W 3"], UInt8[np.ndarray, "p n H W 3"]]:
    """Pixels, and previews if `draw` gives any; the last batch is padded.

    Args:
      draw: a `sample_fn` of this batch size with its plan bound.
      params: of the model, on all devices of `mesh`.
      mesh: whose devices share each batch; None for one device.
    """
    num_samples = request.num_samples
    pixels, previews = [], []
    for start in range(0, num_samples, batch_size):
        rows = np.arange(start, start + batch_size) % num_samples
        arrays = request.batch(rows)
        if mesh is not None:
            arrays = jax.device_put(arrays, sharding.batch_sharding(mesh))
        drawn = draw(params, **arrays)
        image, believed = (
            drawn if isinstance(drawn, tuple) else (drawn, drawn[None][:0])
        )
        pixels.append(np.asarray(image_to_pixels(image)))
        previews.append(np.asarray(image_to_pixels(believed)))
    drawn = np.concatenate(pixels)[:num_samples]
    return drawn, np.concatenate(previews, axis=1)[:, :num_samples]
