"""The random degradations of BSRGAN and of the lighter variant that LDM was trained on.

Zhang et al. 2021, "Designing a Practical Degradation Model for Deep Blind Image
Super-Resolution", with the numbers of LDM's reference code. `draw_bsrgan` decides
everything that is left to chance, as a tuple of steps; `apply` carries them out.

The order is a random permutation of blur, (blur,) downsample2, downsample3, noise and
JPEG in which downsample2 and downsample3 change places if they stand the wrong way
round; JPEG once more comes last. Left out: the camera step, which the reference draws
and then skips for want of a model, so that the order of the others is the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from ldm_jax.data.degradations.resizing import crop_to_multiple
from ldm_jax.data.degradations.steps import (
    AnisotropicBlur,
    ColorNoise,
    CorrelatedNoise,
    GreyNoise,
    IsotropicBlur,
    Jpeg,
    Resize,
    Shrink,
    Step,
    Subsample,
    to_pixels,
)

Recipe = tuple[Step, ...]

_INTERPOLATIONS = ("linear", "cubic", "area")
_HALVING_RATE = 0.25
_ANISOTROPIC_RATE = 0.5
_JPEG_RATE = 0.9


@dataclass(frozen=True)
class Settings:
    """What differs between the variants. Ranges include both ends.

    Attributes:
      num_blurs: blurs in the permutation.
      blur_scale: multiplies the widest blur: variances up to (4 + factor) and standard
        deviations up to (2 + 0.2 factor).
      anisotropic_sizes: sides of the kernel, each as likely.
      isotropic_sizes: the same of isotropic kernels.
      resize_rate: how often downsample2 resizes at random (else blurs and subsamples).
      noise_levels: least and largest standard deviation, whole 255ths.
      jpeg_qualities: least and largest.
    """

    num_blurs: int
    blur_scale: float
    anisotropic_sizes: tuple[int, ...]
    isotropic_sizes: tuple[int, ...]
    resize_rate: float
    noise_levels: tuple[int, int]
    jpeg_qualities: tuple[int, int]


BSRGAN = Settings(
    num_blurs=2,
    blur_scale=1.0,
    anisotropic_sizes=tuple(range(7, 26, 2)),
    isotropic_sizes=tuple(range(7, 26, 2)),
    resize_rate=0.75,
    noise_levels=(2, 25),
    jpeg_qualities=(30, 95),
)

BSRGAN_LIGHT = Settings(
    num_blurs=1,
    blur_scale=0.25,
    anisotropic_sizes=tuple(range(5, 15)),
    isotropic_sizes=(5, 6, 7),
    resize_rate=0.8,
    noise_levels=(1, 2),
    jpeg_qualities=(80, 95),
)


def bsrgan(
    pixels: UInt8[np.ndarray, "H W 3"],
    factor: int,
    generator: np.random.Generator,
    *,
    settings: Settings,
) -> UInt8[np.ndarray, "h w 3"]:
    """A picture `factor` times smaller, by a recipe of its own.

    Raises:
      ValueError: if a side is shorter than the factor, or OpenCV is not installed.
    """
    pixels = crop_to_multiple(pixels, factor)
    size = pixels.shape[0], pixels.shape[1]
    return apply(draw_bsrgan(settings, factor, size, generator), pixels)


def apply(
    recipe: Recipe, pixels: UInt8[np.ndarray, "H W 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Carry out a recipe drawn for pictures of this size. Draws nothing."""
    image = pixels.astype(np.float32) / np.float32(255)
    for step in recipe:
        image = step(image)
    return to_pixels(image)


def draw_bsrgan(
    settings: Settings,
    factor: int,
    size: tuple[int, int],
    generator: np.random.Generator,
) -> Recipe:
    """The steps for pictures of `size` = (height, width), multiples of `factor`.

    With factor 4 a picture is halved first in a quarter of the cases, and all that
    follows is as for factor 2.
    """
    final = size[0] // factor, size[1] // factor
    start: Recipe = ()
    if factor == 4 and generator.random() < _HALVING_RATE:
        start, factor = (_draw_halving(generator),), 2
    operations: dict[str, Callable[[], Recipe]] = {
        "blur": lambda: (_draw_blur(settings, factor, generator),),
        "downsample2": lambda: (_draw_shrinking(settings, factor, generator),),
        "downsample3": lambda: (Resize(*final, _draw_interpolation(generator)),),
        "noise": lambda: (_draw_noise(settings, generator),),
        "jpeg": lambda: _draw_perhaps_jpeg(settings, generator),
    }
    middle = [operations[name]() for name in draw_order(settings, generator)]
    return start + sum(middle, ()) + (_draw_jpeg(settings, generator),)


def draw_order(settings: Settings, generator: np.random.Generator) -> list[str]:
    """The permutation, downsample2 before downsample3."""
    names = ["blur"] * settings.num_blurs
    names += ["downsample2", "downsample3", "noise", "jpeg"]
    order = [names[place] for place in generator.permutation(len(names))]
    second, third = order.index("downsample2"), order.index("downsample3")
    if third < second:
        order[third], order[second] = order[second], order[third]
    return order


def _draw_interpolation(generator: np.random.Generator) -> str:
    return _INTERPOLATIONS[generator.integers(len(_INTERPOLATIONS))]


def _draw_halving(generator: np.random.Generator) -> Step:
    if generator.random() < 0.5:
        return Shrink(2.0, _draw_interpolation(generator))
    return Shrink(2.0, "antialiased_cubic")


def _draw_blur(settings: Settings, factor: int, generator: np.random.Generator) -> Step:
    if generator.random() < _ANISOTROPIC_RATE:
        sizes = settings.anisotropic_sizes
        size = sizes[generator.integers(len(sizes))]
        along, across = generator.uniform(0, settings.blur_scale * (4 + factor), 2)
        angle = generator.uniform(0, np.pi)
        return AnisotropicBlur(size, (float(along), float(across)), angle)
    sizes = settings.isotropic_sizes
    size = sizes[generator.integers(len(sizes))]
    widest = settings.blur_scale * (2 + 0.2 * factor)
    return IsotropicBlur(size, generator.uniform(0, widest))


def _draw_shrinking(
    settings: Settings, factor: int, generator: np.random.Generator
) -> Step:
    if generator.random() < settings.resize_rate:
        scale = generator.uniform(1, 2 * factor)
        return Shrink(scale, _draw_interpolation(generator))
    return Subsample(generator.uniform(0.1, 0.6 * factor), factor)


def _draw_noise(settings: Settings, generator: np.random.Generator) -> Step:
    level = _draw_integer(settings.noise_levels, generator)
    seed = int(generator.integers(2**63))
    kind = generator.random()
    if kind > 0.6:
        return ColorNoise(level, seed)
    if kind < 0.4:
        return GreyNoise(level, seed)
    return CorrelatedNoise(_draw_covariance(settings, generator), seed)


def _draw_covariance(
    settings: Settings, generator: np.random.Generator
) -> tuple[tuple[float, float, float], ...]:
    """|L^2 U^T D U|, element by element; L is the largest level, whatever was drawn.

    D is diagonal and uniform in [0, 1); U the left singular vectors of a uniform
    matrix. The absolute value of a 3x3 covariance is a covariance.
    """
    diagonal = np.diag(generator.random(3))
    basis = np.linalg.svd(generator.random((3, 3)))[0]
    largest = settings.noise_levels[1] / 255
    covariance = np.abs(largest**2 * basis.T @ diagonal @ basis)
    return tuple(tuple(row) for row in covariance.tolist())


def _draw_perhaps_jpeg(settings: Settings, generator: np.random.Generator) -> Recipe:
    if generator.random() < _JPEG_RATE:
        return (_draw_jpeg(settings, generator),)
    return ()


def _draw_jpeg(settings: Settings, generator: np.random.Generator) -> Jpeg:
    return Jpeg(_draw_integer(settings.jpeg_qualities, generator))


def _draw_integer(ends: tuple[int, int], generator: np.random.Generator) -> int:
    return int(generator.integers(*ends, endpoint=True))
