"""torch_fidelity's metric functions, importable where torchvision lacks its operators."""

import sys
import warnings

import torch

_RETRIED = ("torch_fidelity", "torchvision")
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def import_torch_fidelity():
    """A torchvision whose compiled part does not load lacks two operators: declare them."""
    warnings.filterwarnings("ignore", module="torchvision")
    try:
        import torch_fidelity
    except RuntimeError:
        for name in [n for n in sys.modules if n.split(".")[0] in _RETRIED]:
            del sys.modules[name]
        for op in ("nms", "qnms"):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            _LIBRARY.define(op + signature)
        import torch_fidelity
    return torch_fidelity


import_torch_fidelity()

from torch_fidelity.metric_fid import (
    fid_features_to_statistics,
    fid_statistics_to_metric,
)
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric


def their_fid(a, b):
    statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    return fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]


def their_kid(fake, real, **settings):
    found = kid_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), verbose=False, **settings
    )
    return tuple(found[f"kernel_inception_distance_{x}"] for x in ("mean", "std"))


def their_inception_score(logits):
    found = isc_features_to_metric(torch.from_numpy(logits))
    return tuple(found[f"inception_score_{x}"] for x in ("mean", "std"))


def their_precision_recall(fake, real):
    found = prc_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), verbose=False
    )
    return found["precision"], found["recall"]
