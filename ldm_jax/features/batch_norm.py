"""Batch normalisation as part of the convolution before it."""

from collections.abc import Mapping

import numpy as np


def fold(
    state: Mapping[str, np.ndarray], convolution: str, norm: str, eps: float
) -> dict[str, np.ndarray]:
    """Kernel and bias of a convolution with its normalisation, which is linear.

    Args:
      state: a torch state dict.
      convolution, norm: names of the two layers in it; the convolution has no bias.
      eps: of the normalisation.

    Returns:
      `kernel` [kh, kw, c, d] and `bias` [d], float32.

    Raises:
      KeyError: names the tensor that is missing.
    """
    weight, scale, shift, mean, variance = (
        np.asarray(state[name], np.float64)
        for name in (
            f"{convolution}.weight",
            f"{norm}.weight",
            f"{norm}.bias",
            f"{norm}.running_mean",
            f"{norm}.running_var",
        )
    )
    scale = scale / np.sqrt(variance + eps)
    kernel = weight.transpose(2, 3, 1, 0) * scale
    bias = shift - mean * scale
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
