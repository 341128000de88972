"""The operations of BSRGAN, each with everything that chance decides about it.

A step is a frozen dataclass called with an image, float32 `[h, w, 3]` in [0, 1]; it
gives another one in that range and draws nothing (noise has its own seed).
"""

import io
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from ldm_jax.data.degradations.kernels import (
    anisotropic_kernel,
    isotropic_kernel,
    shifted_kernel,
)
from ldm_jax.data.degradations.resizing import antialiased_cubic, interpolate, opencv

_SHIFTED_SIZE = 25


class Step(Protocol):
    """One operation, fully determined."""

    def __call__(
        self, image: Float32[np.ndarray, "H W 3"]
    ) -> Float32[np.ndarray, "h w 3"]: ...


@dataclass(frozen=True)
class AnisotropicBlur:
    """Blur with `kernels.anisotropic_kernel`, the picture mirrored at its border."""

    size: int
    variances: tuple[float, float]
    angle: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return convolve(
            image, anisotropic_kernel(self.size, self.variances, self.angle)
        )


@dataclass(frozen=True)
class IsotropicBlur:
    """Blur with `kernels.isotropic_kernel`, the picture mirrored at its border."""

    size: int
    sigma: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return convolve(image, isotropic_kernel(self.size, self.sigma))


@dataclass(frozen=True)
class Shrink:
    """Divide both sides by `scale` and round down, to one pixel at the least.

    Attributes:
      interpolation: OpenCV's linear, cubic or area; or antialiased_cubic.
    """

    scale: float
    interpolation: str

    def __call__(self, image: np.ndarray) -> np.ndarray:
        height, width = (max(1, int(side / self.scale)) for side in image.shape[:2])
        return Resize(height, width, self.interpolation)(image)


@dataclass(frozen=True)
class Resize:
    """To `height` x `width`, down or up, clipped; `interpolation` as in `Shrink`."""

    height: int
    width: int
    interpolation: str

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if self.interpolation == "antialiased_cubic":
            return clip(antialiased_cubic(image, self.height, self.width))
        return clip(interpolate(image, self.height, self.width, self.interpolation))


@dataclass(frozen=True)
class Subsample:
    """Every `stride`-th pixel of the picture blurred with a sub-pixel shifted Gaussian.

    The sides become ceil(side / stride). See `kernels.shifted_kernel`, of 25x25 taps.
    """

    sigma: float
    stride: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        kernel = shifted_kernel(_SHIFTED_SIZE, self.sigma, self.stride)
        return clip(convolve(image, kernel)[:: self.stride, :: self.stride])


@dataclass(frozen=True)
class ColorNoise:
    """Gaussian noise of standard deviation `level` / 255, independent per channel."""

    level: int
    seed: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return clip(image + _normal(image.shape, self.seed) * (self.level / 255))


@dataclass(frozen=True)
class GreyNoise:
    """Gaussian noise of standard deviation `level` / 255, equal in all channels."""

    level: int
    seed: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        noise = _normal((*image.shape[:2], 1), self.seed)
        return clip(image + noise * (self.level / 255))


@dataclass(frozen=True)
class CorrelatedNoise:
    """Gaussian noise whose channels have a covariance (of values in [0, 1])."""

    covariance: tuple[tuple[float, float, float], ...]
    seed: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        variances, axes = np.linalg.eigh(np.array(self.covariance))
        root = axes * np.sqrt(np.maximum(variances, 0))  # root @ root.T = covariance
        noise = _normal(image.shape, self.seed) @ root.T
        return clip(image + noise)


@dataclass(frozen=True)
class Jpeg:
    """Through JPEG of a `quality`, colour at half resolution (4:2:0)."""

    quality: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        stream = io.BytesIO()
        Image.fromarray(to_pixels(image)).save(stream, "JPEG", quality=self.quality)
        with Image.open(stream) as decoded:
            return np.asarray(decoded, np.float32) / np.float32(255)


def convolve(
    image: Float32[np.ndarray, "h w c"], kernel: np.ndarray
) -> Float32[np.ndarray, "h w c"]:
    """Convolution of every channel, mirrored at the border without repeating it.

    Equals scipy.ndimage's, even kernels included, an order of magnitude sooner.
    """
    cv2 = opencv()
    anchor = kernel.shape[0] - 1 - kernel.shape[0] // 2  # OpenCV correlates
    flipped = np.ascontiguousarray(kernel[::-1, ::-1], np.float32)
    mirrored = cv2.BORDER_REFLECT_101
    return cv2.filter2D(
        image, -1, flipped, anchor=(anchor, anchor), borderType=mirrored
    )


def clip(image: np.ndarray) -> Float32[np.ndarray, "..."]:
    """To float32 in [0, 1]."""
    return np.clip(image, 0, 1).astype(np.float32, copy=False)


def to_pixels(image: Float32[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Float in [0, 1] to the nearest of 256 levels."""
    return np.round(clip(image) * 255).astype(np.uint8)


def _normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)
