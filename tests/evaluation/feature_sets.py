"""Synthetic features with the look of pool features: positive, correlated, overlapping."""

import numpy as np


def feature_set(count, width=24, *, shift=0.0, seed=0):
    """[count width] float32; sets of one mixing matrix, whatever their seed."""
    mixing = np.random.default_rng(99).normal(size=(width, width)) / width**0.5
    latent = np.random.default_rng(seed).normal(size=(count, width)) + shift
    return np.maximum(latent @ mixing + 0.5, 0).astype(np.float32)
