"""The InceptionV3 of FID: the network of the 2015 TensorFlow graph.

It differs from torchvision's: average pools count no padding, the last block pools by
maximum, there are 1,008 classes. Batch normalisation is part of the convolutions (see
`batch_norm`). Layer names are torch-fidelity's and pytorch-fid's, so that their file maps
onto the tree without a table. Szegedy et al. 2015, arXiv:1512.00567.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

from ldm_jax.features.pooling import average_pool, max_pool
from ldm_jax.features.resize import bilinear_tf1
from ldm_jax.nn.convolution import convolve

SIZE = 299
NUM_LOGITS = 1008
# ADM's sFID: the first 7 of the 192 channels of the graph's `mixed_6/conv:0`, that is
# Mixed_6d.branch1x1 after its ReLU, on the 17x17 grid: 2,023 numbers.
SPATIAL_CHANNELS = 7
PREPROCESSING = (
    f"TensorFlow 1 bilinear resize to {SIZE}x{SIZE} (corners aligned, no smoothing), "
    "(x - 128) / 128"
)


def inception_features(
    params: Mapping[str, Any], pixels: UInt8[Array, "b H W 3"]
) -> dict[str, jax.Array]:
    """The features that metrics use, from pixels of any size.

    Returns:
      "pool" [b, 2048]: FID's, KID's, precision's and recall's;
      "spatial" [b, 2023]: sFID's, in the order row, column, channel;
      "logits" [b, 1008]: without the bias, as torch-fidelity and ADM take them for the
        Inception Score (a quirk of the original script that everyone reproduces);
      "logits_biased" [b, 1008]: the classifier's own;
      "pool_64", "pool_192", "pool_768": means of earlier maps.
    """
    image = (bilinear_tf1(pixels, SIZE) - 128) / 128
    maps = Inception().apply({"params": params}, image)
    assert isinstance(maps, dict)
    means = {name: maps[name].mean(axis=(1, 2)) for name in maps}
    pool = means["2048"]
    logits = pool @ params["fc"]["kernel"]
    return {
        "pool": pool,
        "spatial": maps["spatial"].reshape(len(pixels), -1),
        "logits": logits,
        "logits_biased": logits + params["fc"]["bias"],
    } | {f"pool_{width}": means[width] for width in ("64", "192", "768")}


class Inception(nn.Module):
    """The maps that `inception_features` reduces, from a normalised image."""

    @nn.compact
    def __call__(
        self, image: Float[Array, "b 299 299 3"]
    ) -> dict[str, Float[Array, "b h w c"]]:
        """Maps by their width, "64", "192", "768", "2048", and "spatial" (7 channels)."""
        maps = {}
        x = _Conv(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(image)  # 149
        x = _Conv(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)  # 147
        x = _Conv(64, (3, 3), name="Conv2d_2b_3x3")(x)
        maps["64"] = x = max_pool(x, stride=2)  # 73
        x = _Conv(80, name="Conv2d_3b_1x1")(x)
        x = _Conv(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x)  # 71
        maps["192"] = x = max_pool(x, stride=2)  # 35
        x = _BlockA(32, name="Mixed_5b")(x)
        x = _BlockA(64, name="Mixed_5c")(x)
        x = _BlockA(64, name="Mixed_5d")(x)
        x = _BlockB(name="Mixed_6a")(x)  # 17
        x = _BlockC(128, name="Mixed_6b")(x)
        x = _BlockC(160, name="Mixed_6c")(x)
        x = _BlockC(160, name="Mixed_6d")(x)
        maps["spatial"] = x[..., :SPATIAL_CHANNELS]  # branch1x1 comes first
        maps["768"] = x = _BlockC(192, name="Mixed_6e")(x)
        x = _BlockD(name="Mixed_7a")(x)  # 8
        x = _BlockE("average", name="Mixed_7b")(x)
        maps["2048"] = _BlockE("max", name="Mixed_7c")(x)
        return maps


class _Conv(nn.Module):
    """Convolution and ReLU; with `pool` a mean over 3x3 neighbours between the two.

    The mean follows the convolution, which is the same sum on fewer channels: both are
    linear, and a mean leaves the bias as it is.
    """

    features: int
    kernel_size: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: Literal["SAME", "VALID"] = "SAME"
    pool: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.zeros, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        keep = self.padding == "SAME"
        top, left = (size // 2 if keep else 0 for size in self.kernel_size)
        padding = ((top, top), (left, left))
        y = convolve(x, kernel, stride=self.stride, padding=padding)
        if self.pool:
            y = average_pool(y)
        return nn.relu(y + bias)


def _join(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)


class _BlockA(nn.Module):
    """35x35, figure 5 of the paper."""

    pool_features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        point = _Conv(64, name="branch1x1")(x)
        five = _Conv(48, name="branch5x5_1")(x)
        five = _Conv(64, (5, 5), name="branch5x5_2")(five)
        three = _Conv(64, name="branch3x3dbl_1")(x)
        three = _Conv(96, (3, 3), name="branch3x3dbl_2")(three)
        three = _Conv(96, (3, 3), name="branch3x3dbl_3")(three)
        pool = _Conv(self.pool_features, pool=True, name="branch_pool")(x)
        return _join(point, five, three, pool)


class _BlockB(nn.Module):
    """35x35 to 17x17."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        single = _Conv(384, (3, 3), 2, "VALID", name="branch3x3")(x)
        double = _Conv(64, name="branch3x3dbl_1")(x)
        double = _Conv(96, (3, 3), name="branch3x3dbl_2")(double)
        double = _Conv(96, (3, 3), 2, "VALID", name="branch3x3dbl_3")(double)
        return _join(single, double, max_pool(x, stride=2))


class _BlockC(nn.Module):
    """17x17, figure 6: 7x7 convolutions as 1x7 and 7x1."""

    inner: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        c = self.inner
        point = _Conv(192, name="branch1x1")(x)
        single = _Conv(c, name="branch7x7_1")(x)
        single = _Conv(c, (1, 7), name="branch7x7_2")(single)
        single = _Conv(192, (7, 1), name="branch7x7_3")(single)
        double = _Conv(c, name="branch7x7dbl_1")(x)
        double = _Conv(c, (7, 1), name="branch7x7dbl_2")(double)
        double = _Conv(c, (1, 7), name="branch7x7dbl_3")(double)
        double = _Conv(c, (7, 1), name="branch7x7dbl_4")(double)
        double = _Conv(192, (1, 7), name="branch7x7dbl_5")(double)
        pool = _Conv(192, pool=True, name="branch_pool")(x)
        return _join(point, single, double, pool)


class _BlockD(nn.Module):
    """17x17 to 8x8."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        three = _Conv(192, name="branch3x3_1")(x)
        three = _Conv(320, (3, 3), 2, "VALID", name="branch3x3_2")(three)
        seven = _Conv(192, name="branch7x7x3_1")(x)
        seven = _Conv(192, (1, 7), name="branch7x7x3_2")(seven)
        seven = _Conv(192, (7, 1), name="branch7x7x3_3")(seven)
        seven = _Conv(192, (3, 3), 2, "VALID", name="branch7x7x3_4")(seven)
        return _join(three, seven, max_pool(x, stride=2))


class _BlockE(nn.Module):
    """8x8, figure 7; the 2015 graph pools its last block by maximum."""

    pool: Literal["average", "max"]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        point = _Conv(320, name="branch1x1")(x)
        single = _Conv(384, name="branch3x3_1")(x)
        double = _Conv(448, name="branch3x3dbl_1")(x)
        double = _Conv(384, (3, 3), name="branch3x3dbl_2")(double)
        if self.pool == "max":
            pool = _Conv(192, name="branch_pool")(max_pool(x, stride=1, padding=1))
        else:
            pool = _Conv(192, pool=True, name="branch_pool")(x)
        return _join(
            point,
            _Conv(384, (1, 3), name="branch3x3_2a")(single),
            _Conv(384, (3, 1), name="branch3x3_2b")(single),
            _Conv(384, (1, 3), name="branch3x3dbl_3a")(double),
            _Conv(384, (3, 1), name="branch3x3dbl_3b")(double),
            pool,
        )
