"""EfficientNet-lite0, an ImageNet classifier: features for machines without FID's network.

Tan & Le 2019, arXiv:1905.11946, in the lite form of tensorflow/tpu
(models/official/efficientnet/lite): no squeeze-and-excitation, ReLU6, TensorFlow's SAME
padding. Batch normalisation is part of the convolutions (see `batch_norm`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from ldm_jax.features.resize import bicubic
from ldm_jax.nn.convolution import convolve

SIZE = 224
NUM_CLASSES = 1000
# The original trains on bicubically resized crops and normalises with 127 and 128
# (preprocessing.py and lite/efficientnet_lite_builder.py of tensorflow/tpu). Here the whole
# image counts, so nothing is cropped, and shrinking smooths.
PREPROCESSING = (
    f"bicubic resize (Pillow's, not rounded) of the whole image to {SIZE}x{SIZE}, "
    "(x - 127) / 128"
)
_STEM_WIDTH, _HEAD_WIDTH = 32, 1280

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """One inverted residual block: `expand` times as wide inside."""

    kernel_size: int
    stride: int
    expand: int
    width_in: int
    width: int


# (repeats, kernel size, stride of the first, expansion, width)
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def _blocks() -> tuple[Block, ...]:
    blocks, width_in = [], _STEM_WIDTH
    for repeats, kernel_size, stride, expand, width in _STAGES:
        for index in range(repeats):
            first = stride if index == 0 else 1
            blocks.append(Block(kernel_size, first, expand, width_in, width))
            width_in = width
    return tuple(blocks)


BLOCKS = _blocks()


def efficientnet_features(
    params: Params, pixels: UInt8[Array, "b H W 3"]
) -> dict[str, jax.Array]:
    """ "pool" [b, 1280] and the class "logits" [b, 1000], from pixels of any size."""
    x = (bicubic(pixels, SIZE, SIZE) - 127) / 128
    x = jax.nn.relu6(_convolution(params["stem"], x, stride=2))  # 112
    for index, block in enumerate(BLOCKS):
        x = _inverted_residual(params[f"block_{index}"], x, block)  # 7 in the end
    x = jax.nn.relu6(_convolution(params["head"], x))
    pool = x.mean(axis=(1, 2))
    classifier = params["classifier"]
    return {"pool": pool, "logits": pool @ classifier["kernel"] + classifier["bias"]}


def param_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters by path, `block_0/depthwise/kernel` for one."""
    kernels = {"stem": (3, 3, 3, _STEM_WIDTH)}
    for index, block in enumerate(BLOCKS):
        size, inner = block.kernel_size, block.width_in * block.expand
        if block.expand > 1:
            kernels[f"block_{index}/expand"] = (1, 1, block.width_in, inner)
        kernels[f"block_{index}/depthwise"] = (size, size, 1, inner)
        kernels[f"block_{index}/project"] = (1, 1, inner, block.width)
    kernels["head"] = (1, 1, BLOCKS[-1].width, _HEAD_WIDTH)
    shapes = {}
    for name, shape in kernels.items():
        shapes |= {f"{name}/kernel": shape, f"{name}/bias": shape[-1:]}
    shapes["classifier/kernel"] = (_HEAD_WIDTH, NUM_CLASSES)
    shapes["classifier/bias"] = (NUM_CLASSES,)
    return shapes


def _inverted_residual(
    params: Params, x: Float[Array, "b h w c"], block: Block
) -> Float[Array, "b h2 w2 d"]:
    y = x
    if block.expand > 1:
        y = jax.nn.relu6(_convolution(params["expand"], y))
    y = jax.nn.relu6(_depthwise(params["depthwise"], y, block.stride))
    y = _convolution(params["project"], y)
    return x + y if x.shape == y.shape else y


def _convolution(
    params: Params, x: Float[Array, "b h w c"], stride: int = 1
) -> Float[Array, "b h2 w2 d"]:
    kernel = params["kernel"]
    rows, columns = (_same(x.shape[1 + i], kernel.shape[i], stride) for i in (0, 1))
    return convolve(x, kernel, stride=stride, padding=(rows, columns)) + params["bias"]


def _depthwise(
    params: Params, x: Float[Array, "b h w c"], stride: int
) -> Float[Array, "b h2 w2 c"]:
    """Every channel with its own kernel, as a sum of shifted and scaled arrays.

    XLA's CPU backend takes twenty to eighty times as long for a grouped convolution.
    """
    kernel = params["kernel"]  # [kh kw 1 c]
    size = kernel.shape[0]
    padding = [_same(length, size, stride) for length in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = ((length - size) // stride * stride + 1 for length in x.shape[1:3])
    total = params["bias"]
    for i in range(size):
        for j in range(size):
            shifted = x[:, i : i + height : stride, j : j + width : stride]
            total = total + shifted * kernel[i, j, 0]
    return total


def _same(length: int, size: int, stride: int) -> tuple[int, int]:
    """TensorFlow's padding: ceil(length / stride) windows, the odd zero at the end."""
    num_windows = -(-length // stride)
    total = max((num_windows - 1) * stride + size - length, 0)
    return total // 2, total - total // 2
