"""How close a reconstruction is to its original."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

# The window of Wang et al. 2004: a Gaussian of 1.5 pixels, cut at 3.5 deviations.
_SIGMA, _RADIUS = 1.5, 5
_C1, _C2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # for a range of 2


def psnr(
    image: Float[Array, "b h w c"], reference: Float[Array, "b h w c"]
) -> Float[Array, " b"]:
    """Peak signal-to-noise ratio in dB of each picture, images in [-1, 1], peak 2.

    The mean over a set is the mean of these, as in the paper's first-stage tables.
    Identical pictures give about 126 dB instead of infinity.
    """
    difference = jnp.clip(image, -1, 1) - jnp.clip(reference, -1, 1)
    error = jnp.mean(difference.astype(jnp.float32) ** 2, axis=(1, 2, 3))
    return 10 * jnp.log10(4 / jnp.maximum(error, 1e-12))


def ssim(
    image: Float[Array, "b h w c"], reference: Float[Array, "b h w c"]
) -> Float[Array, " b"]:
    """Structural similarity of each picture, 1 for equal ones; images in [-1, 1].

    Wang et al. 2004 with the original's settings: an 11x11 Gaussian window of deviation
    1.5, variances over n, K1 = 0.01, K2 = 0.03, a data range of 2; mean over all windows
    inside the picture and over the channels, each on its own. Equals scikit-image's
    `structural_similarity(x, y, data_range=2, channel_axis=-1, gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False)`.

    Raises:
      ValueError: if the pictures are smaller than the window, or their shapes differ.
    """
    if image.shape != reference.shape or min(image.shape[1:3]) < 2 * _RADIUS + 1:
        raise ValueError(
            f"SSIM compares images of one shape and at least {2 * _RADIUS + 1} pixels, "
            f"but these have {image.shape[1:]} and {reference.shape[1:]}: use others"
        )
    x, y = (jnp.clip(z, -1, 1).astype(jnp.float32) for z in (image, reference))
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x**2
    var_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (var_x + var_y + _C2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _blur(x: Float[Array, "b h w c"]) -> Float[Array, "b h-10 w-10 c"]:
    """The window's weighted mean, wherever it fits.

    Shifted sums: no convolution, which accelerators round to fewer bits.
    """
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (1, 2):
        size = x.shape[axis] - 2 * _RADIUS
        x = sum(
            w * lax.slice_in_dim(x, i, i + size, axis=axis)
            for i, w in enumerate(weights)
        )  # pyright: ignore[reportAssignmentType]
    return x
