"""Gaussian blur kernels on square grids, normalised to sum 1."""

import numpy as np
from jaxtyping import Float64


def isotropic_kernel(size: int, sigma: float) -> Float64[np.ndarray, "size size"]:
    """Standard deviation `sigma` in pixels; MATLAB's fspecial("gaussian")."""
    profile = gaussian_profile(size, sigma)
    return np.outer(profile, profile)


def anisotropic_kernel(
    size: int, variances: tuple[float, float], angle: float
) -> Float64[np.ndarray, "size size"]:
    """Variances in square pixels along and across the direction `angle` (radians).

    The direction is (cos, sin) in (x, y), y downwards. An even size has its centre
    between pixels; where the variances then are so small that every pixel's density
    underflows, the reference divides by zero: here the nearest pixels share the weight.
    """
    x, y = np.meshgrid(_offsets(size), _offsets(size))
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    floor = 1e-12  # of a variance; keeps the quotients finite
    exponent = -0.5 * (
        along**2 / max(variances[0], floor) + across**2 / max(variances[1], floor)
    )
    kernel = np.exp(exponent - exponent.max())
    return kernel / kernel.sum()


def shifted_kernel(
    size: int, sigma: float, factor: int
) -> Float64[np.ndarray, "size size"]:
    """`isotropic_kernel` moved up and left by (factor - 1) / 2 pixels.

    Bilinear interpolation between taps, the last tap repeated, then normalised. A
    picture blurred with it and sampled at 0, factor, 2 factor, ... is sampled at the
    middle of every factor x factor block. A Gaussian's taps are a product, and so is
    bilinear interpolation: one axis is enough.
    """
    taps = np.arange(size)
    profile = gaussian_profile(size, sigma)
    profile = np.interp(taps + (factor - 1) / 2, taps, profile)
    profile = profile / profile.sum()
    return np.outer(profile, profile)


def gaussian_profile(size: int, sigma: float) -> Float64[np.ndarray, "size"]:
    """One axis of `isotropic_kernel`; see `anisotropic_kernel` on tiny widths."""
    exponent = -0.5 * (_offsets(size) / max(sigma, 1e-6)) ** 2
    profile = np.exp(exponent - exponent.max())
    return profile / profile.sum()


def _offsets(size: int) -> np.ndarray:
    return np.arange(size) - (size - 1) / 2
