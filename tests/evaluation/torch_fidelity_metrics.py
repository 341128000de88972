"""torch_fidelity's metric functions, importable where torchvision lacks its operators."""

import torch

from tests.parity.torch_vision import import_torchvision

import_torchvision()

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
