"""VGG16 convolutional features (Simonyan & Zisserman 2015, configuration D)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ldm_jax.nn.placement import gathered

Params = Mapping[str, Mapping[str, jax.Array]]

# Output channels of the 3x3 convolutions between two max-pools; conv2_1 is the first
# of the second stage.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
CONV_NAMES = tuple(
    f"conv{stage}_{index}"
    for stage, channels in enumerate(STAGES, start=1)
    for index in range(1, len(channels) + 1)
)
MIN_SIZE = 16
# Up to this many pixels a convolution runs as one matrix product: XLA's CPU convolution
# of a 2x2 grid takes a hundred times as long.
_TINY_GRID = 16


def param_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of the parameter tree, `{"conv1_1": {"kernel": ..., "bias": ...}, ...}`."""
    widths = [channels for stage in STAGES for channels in stage]
    return {
        name: {"kernel": (3, 3, width_in, width), "bias": (width,)}
        for name, width_in, width in zip(CONV_NAMES, [3, *widths], widths, strict=False)
    }


def vgg16_features(
    params: Params, image: Float[Array, "b h w 3"], *, dtype: DTypeLike = jnp.float32
) -> list[Float[Array, "b _ _ c"]]:
    """Activations after the last ReLU of each stage: relu1_2, 2_2, 3_3, 4_3, 5_3.

    Args:
      params: see `param_shapes`.
      image: already normalised for this network; at least 16 pixels in each direction.
      dtype: of the computation and the result; the parameters are cast.

    Returns:
      Five arrays with 64, 128, 256, 512, 512 channels and spatial sizes h, h//2, ...
    """
    x = image.astype(dtype)
    features = []
    for stage, channels in enumerate(STAGES, start=1):
        if stage > 1:
            x = max_pool(x)
        for index in range(1, len(channels) + 1):
            x = jax.nn.relu(convolve(params[f"conv{stage}_{index}"], x))
        features.append(x)
    return features


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    """2x2 max-pool with stride 2; an odd last row or column is dropped.

    A reduction over a reshape, because its gradient is a comparison: the gradient of
    `lax.reduce_window` is a scatter, ten times slower on CPU.
    """
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    return x.max(axis=(2, 4))


def convolve(
    params: Mapping[str, jax.Array], x: Float[Array, "b h w c"]
) -> Float[Array, "b h w d"]:
    """3x3 convolution with zero padding and bias."""
    kernel, bias = (
        gathered(params[name].astype(x.dtype)) for name in ("kernel", "bias")
    )
    h, w = x.shape[1:3]
    if h * w <= _TINY_GRID:
        return _patches(x) @ kernel.reshape(-1, kernel.shape[-1]) + bias
    out = jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return out + bias


def _patches(x: Float[Array, "b h w c"]) -> Float[Array, "b h w 9*c"]:
    """The 3x3 neighbourhood of every pixel, zero outside, in the kernel's order."""
    h, w = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1)
