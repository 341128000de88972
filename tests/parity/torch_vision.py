"""torchvision, importable where its compiled operators do not load."""

import sys
import warnings

import torch

_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def import_torchvision():
    """A torchvision without its compiled part lacks two operators: declare them."""
    warnings.filterwarnings("ignore", module="torchvision")
    try:
        import torchvision
    except RuntimeError:
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for op in ("nms", "qnms"):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            _LIBRARY.define(op + signature)
        import torchvision
    return torchvision
