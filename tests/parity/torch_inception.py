"""torch-fidelity's FID Inception with weights that are random and well scaled."""

import functools

import numpy as np
import torch

from tests.parity.torch_transformers import import_torchvision

FEATURES = ["64", "192", "768", "2048", "logits_unbiased", "logits"]


def save_random_weights(path, pixels):
    """A state dict under torch-fidelity's names: no layer saturates or vanishes.

    Convolutions keep the variance; the running statistics of every normalisation are
    those of `pixels` (uint8 [b, h, w, 3]), disturbed like its scales and shifts. Shifts
    are positive: with half of the units off, 94 layers would blow up rounding errors.
    """
    torch.save({}, path)  # the extractor wants a file, and loads nothing of it here
    blank = type(
        "Blank", (_extractor(),), {"load_state_dict": lambda self, state: None}
    )
    model = blank("inception", FEATURES, feature_extractor_weights_path=path)
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
    model(_to_torch(pixels))
    torch.save(model.state_dict(), path)


def torch_features(path, pixels):
    """Features by torch-fidelity's names, and ADM's spatial ones as "spatial"."""
    model = _extractor()("inception", FEATURES, feature_extractor_weights_path=path)
    maps = []
    model.Mixed_6d.branch1x1.register_forward_hook(lambda *args: maps.append(args[-1]))
    features = model(_to_torch(pixels))
    spatial = maps[0].permute(0, 2, 3, 1)[..., :7].reshape(len(pixels), -1)
    named = dict(zip(FEATURES, features, strict=True)) | {"spatial": spatial}
    return {name: value.numpy() for name, value in named.items()}


def torch_resize(pixels, size):
    """torch-fidelity's resize, [b, size, size, 3] in [0, 255]."""
    import_torchvision()
    from torch_fidelity import interpolate_compat_tensorflow as module

    x = _to_torch(pixels).float()
    resized = module.interpolate_bilinear_2d_like_tensorflow1x(
        x, size=(size, size), align_corners=False
    )
    return resized.permute(0, 2, 3, 1).numpy()


@functools.cache
def _extractor():
    import_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3


def _to_torch(pixels):
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
