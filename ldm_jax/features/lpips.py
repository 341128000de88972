"""LPIPS, the learned perceptual image distance (Zhang et al. 2018, v0.1, VGG16)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ldm_jax.features import vgg

# ImageNet's mean and deviation, restated for images in [-1, 1].
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
_EPS = 1e-10


def param_shapes() -> dict[str, Any]:
    """Shapes of the parameter tree: `vgg` and one channel weighting a stage, `heads`."""
    heads = {
        f"head_{index}": (channels[-1],)
        for index, channels in enumerate(vgg.STAGES, start=1)
    }
    return {"vgg": vgg.param_shapes(), "heads": heads}


def lpips(
    params: Mapping[str, Any],
    x: Float[Array, "b h w 3"],
    target: Float[Array, "b h w 3"],
    *,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, " b"]:
    """Perceptual distance of `x` to `target`; 0 for equal images, about 1 at most.

    No gradient flows to `target` or to `params`. With dtype bfloat16 the network runs
    in bfloat16 and the comparison of its features in float32.

    Args:
      params: `{"vgg": ..., "heads": ...}` as `find_lpips_weights` returns them.
      x: images in [-1, 1], at least 16 pixels in each direction.
      target: images of the same shape.

    Raises:
      ValueError: shapes differ, or the images are smaller than 16 pixels.
    """
    if x.shape != target.shape:
        raise ValueError(
            f"LPIPS compares images of one shape, but these have {x.shape} and "
            f"{target.shape}: resize one of them"
        )
    if min(x.shape[1:3]) < vgg.MIN_SIZE:
        raise ValueError(
            f"LPIPS needs images of at least {vgg.MIN_SIZE} pixels, but these are "
            f"{x.shape[1]}x{x.shape[2]}: use larger images or a larger perceptual_crop"
        )
    params = jax.lax.stop_gradient(params)
    features = vgg.vgg16_features(params["vgg"], _normalize(x), dtype=dtype)
    target = jax.lax.stop_gradient(target)
    target_features = vgg.vgg16_features(params["vgg"], _normalize(target), dtype=dtype)
    distance = jnp.zeros(x.shape[0], jnp.float32)
    for index, (f, g) in enumerate(zip(features, target_features, strict=True), 1):
        squared = jnp.square(_unit(f) - _unit(g))  # [b h w c]
        distance += (squared @ params["heads"][f"head_{index}"]).mean(axis=(1, 2))
    return distance


def _normalize(image: jax.Array) -> jax.Array:
    return (image.astype(jnp.float32) - _SHIFT) / _SCALE


def _unit(features: jax.Array) -> jax.Array:
    """Unit length over channels; epsilon stands outside the root as in the original."""
    features = features.astype(jnp.float32)
    squared = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    # The root has no gradient at 0, where every feature is off.
    is_on = squared > 0
    norm = jnp.where(is_on, jnp.sqrt(jnp.where(is_on, squared, 1)), 0)
    return features / (norm + _EPS)
