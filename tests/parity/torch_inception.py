"""torch-fidelity's FID Inception with weights that are random and well scaled."""

import numpy as np
import pytest
import torch

from tests.parity.torch_vision import import_torchvision

import_torchvision()
pytest.importorskip("torch_fidelity")
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import (
    interpolate_bilinear_2d_like_tensorflow1x as interpolate,
)

FEATURES = ["64", "192", "768", "2048", "logits_unbiased", "logits"]


def random_network(path, pixels):
    """Random weights, saved to `path` under torch-fidelity's names, and their features.

    No layer saturates or vanishes: convolutions keep the variance; the statistics of
    every normalisation are those of `pixels` (uint8 [b, h, w, 3]), disturbed like its
    scales and shifts. Shifts are positive: with half of the units off, 94 layers would
    blow up rounding errors.

    Returns:
      The features of `pixels` by torch-fidelity's names; ADM's spatial ones as "spatial".
    """
    torch.save({}, path)  # the extractor wants a file, and loads nothing of it here
    model = _Unloaded("inception", FEATURES, feature_extractor_weights_path=path)
    generator = torch.Generator().manual_seed(0)

    def uniform(tensor, low, high):
        return torch.rand(tensor.shape, generator=generator) * (high - low) + low

    def calibrate(norm, inputs):
        (x,) = inputs
        norm.running_mean = x.mean((0, 2, 3)) + uniform(norm.bias, -0.1, 0.1)
        norm.running_var = x.var((0, 2, 3)) * uniform(norm.bias, 0.7, 1.4)

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, fan_in**-0.5, generator=generator)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.weight.copy_(uniform(module.weight, 0.7, 1.4))
            module.bias.copy_(uniform(module.bias, 0, 1.5))
            module.register_forward_pre_hook(calibrate)
    model.fc.bias.normal_(0, 1, generator=generator)
    maps = []
    model.Mixed_6d.branch1x1.register_forward_hook(lambda *args: maps.append(args[-1]))
    features = model(_to_torch(pixels))  # every norm is calibrated before it is used
    torch.save(model.state_dict(), path)
    spatial = maps[0].permute(0, 2, 3, 1)[..., :7].reshape(len(pixels), -1)
    named = dict(zip(FEATURES, features, strict=True)) | {"spatial": spatial}
    return {name: value.numpy() for name, value in named.items()}


def torch_resize(pixels, size):
    """torch-fidelity's resize, [b, size, size, 3] in [0, 255]."""
    x = _to_torch(pixels).float()
    resized = interpolate(x, size=(size, size), align_corners=False)
    return resized.permute(0, 2, 3, 1).numpy()


class _Unloaded(FeatureExtractorInceptionV3):
    """The network with torch's initial weights."""

    def load_state_dict(self, *_args, **_kwargs):
        pass


def _to_torch(pixels):
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
