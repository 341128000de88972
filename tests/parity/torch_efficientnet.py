"""EfficientNet-lite0 written again in torch, from the state dict's own layers."""

import numpy as np
import torch
import torch.nn.functional as F

# kernel size and stride of the 16 depthwise convolutions (tensorflow/tpu's block strings)
KERNEL_SIZES = (3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)


def torch_efficientnet(state, image):
    """(pooled features, logits) of a normalised image [b, 224, 224, 3], as numpy."""
    state = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}

    def convolve(x, name, norm, stride=1, groups=1, activate=True):
        weight = state[f"{name}.weight"]
        size, length = weight.shape[-1], x.shape[-1]
        total = max((-(-length // stride) - 1) * stride + size - length, 0)
        x = F.pad(x, (total // 2, total - total // 2) * 2)
        x = F.conv2d(x, weight, stride=stride, groups=groups)
        leaves = ("running_mean", "running_var", "weight", "bias")
        x = F.batch_norm(x, *(state[f"{norm}.{leaf}"] for leaf in leaves), eps=1e-3)
        return F.relu6(x) if activate else x

    x = torch.from_numpy(np.array(image)).permute(0, 3, 1, 2)
    x = convolve(x, "_conv_stem", "_bn0", stride=2)
    for index, (size, stride) in enumerate(zip(KERNEL_SIZES, STRIDES, strict=True)):
        block, y = f"_blocks.{index}", x
        if index > 0:
            y = convolve(y, f"{block}._expand_conv", f"{block}._bn0")
        depthwise = f"{block}._depthwise_conv"
        assert state[f"{depthwise}.weight"].shape[-1] == size
        y = convolve(y, depthwise, f"{block}._bn1", stride, groups=y.shape[1])
        y = convolve(y, f"{block}._project_conv", f"{block}._bn2", activate=False)
        x = x + y if x.shape == y.shape else y
    pool = convolve(x, "_conv_head", "_bn1").mean((2, 3))
    logits = F.linear(pool, state["_fc.weight"], state["_fc.bias"])
    return pool.numpy(), logits.numpy()
