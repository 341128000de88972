"""What every feature network is to the metrics."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

# uint8 pixels [b, H, W, 3] to named float32 arrays; see `FeatureNetwork`.
Apply = Callable[[Any, jax.Array], dict[str, jax.Array]]


@dataclass(frozen=True)
class FeatureNetwork:
    """A frozen network whose features metrics compare.

    Attributes:
      name: as in `networks.NETWORKS`.
      params: its parameters, float32.
      apply: pure, to be jitted, `apply(params, pixels)` with uint8 pixels [b, H, W, 3] of
        any size; the network's own resizing and normalisation are inside. Returns
        "pool" [b, d], and where there are some "spatial" [b, d_s] and "logits" [b, k],
        all float32 and computed in float32 on every backend.
      weights_sha256: of the file that the parameters were read from.
      preprocessing: what `apply` does to the pixels, in words.
      published_sha256: of the published weights; "" where there is no single file.
    """

    name: str
    params: Any
    apply: Apply
    weights_sha256: str
    preprocessing: str = ""
    published_sha256: str = ""

    @property
    def is_published(self) -> bool:
        """Whether the parameters are the published ones: others give other numbers."""
        return bool(self.published_sha256) and (
            self.weights_sha256 == self.published_sha256
        )


def in_float32(apply: Apply) -> Apply:
    """`apply` with exact float32 products: GPUs and TPUs use fewer bits by default."""

    def exact(params: Any, pixels: jax.Array) -> dict[str, jax.Array]:
        with jax.default_matmul_precision("float32"):
            return apply(params, pixels)

    return exact


def in_groups(apply: Apply, size: int) -> Apply:
    """`apply` to `size` images at a time on CPU, to the whole batch elsewhere.

    A few images' activations stay in a CPU's cache; a whole batch's do not, and are
    two to four times slower to compute.
    """

    def grouped(params: Any, pixels: jax.Array) -> dict[str, jax.Array]:
        if jax.default_backend() != "cpu" or len(pixels) <= size:
            return apply(params, pixels)
        num_images = len(pixels)
        padding = (0, -num_images % size)
        pixels = jnp.pad(pixels, (padding, (0, 0), (0, 0), (0, 0)))
        groups = pixels.reshape(-1, size, *pixels.shape[1:])
        features = jax.lax.map(lambda group: apply(params, group), groups)
        return {
            name: value.reshape(-1, *value.shape[2:])[:num_images]
            for name, value in features.items()
        }

    return grouped
