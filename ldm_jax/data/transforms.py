"""Pictures of any size to squares in [-1, 1], as the published configs do it.

A transform is a frozen dataclass called with an example and a `np.random.Generator` of
its own; it takes every random number from there, always the same count in the same
order, so that a cached latent can repeat an image's flip.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image

RESIZES = ("smallest", "smallest_N", "smallest_antialias", "square_bicubic")
CROPS = ("center", "random")

_FILTERS = Image.Resampling


class Draws(NamedTuple):
    """The random numbers of one example, uniform in [0, 1)."""

    top: float
    left: float
    flip: float


def draw(generator: np.random.Generator) -> Draws:
    """Three numbers whatever is made of them; every transform starts with this."""
    return Draws(*generator.random(3))


class Window(NamedTuple):
    """A rectangle of the source picture, in its pixels, to be sampled to the output."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class SquareImage:
    """Resize, crop and flip to `image_size` x `image_size`.

    Attributes:
      image_size: side of the result.
      resize: `smallest`: the shorter side becomes `image_size`, bilinear, as FFHQ,
        CelebA-HQ and ImageNet of the reference (albumentations' SmallestMaxSize).
        `smallest_N`: it becomes N, and a square of `image_size` is cut from that
        (autoencoders: smallest_384). Both sample without low-pass filter, which aliases
        when shrinking far: the reference's behaviour. `smallest_antialias` filters.
        `square_bicubic`: the central square, antialiased bicubic (LSUN of the
        reference); `crop` has then nothing to choose.
      crop: `center`, or `random` along the longer side (and both, for smallest_N).
      flip_rate: probability of mirroring left and right; above zero, the result has a
        `flip` of 0 or 1.

    Raises:
      ValueError: for an unknown choice, or `smallest_N` with N below `image_size`.
    """

    image_size: int
    resize: str = "smallest"
    crop: str = "center"
    flip_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"data.image_size is {self.image_size}: give 1 or more")
        if self.crop not in CROPS:
            raise ValueError(
                f"data.crop is {self.crop!r}: choose one of {', '.join(CROPS)}"
            )
        if not 0 <= self.flip_rate <= 1:
            raise ValueError(f"data.flip_rate is {self.flip_rate}: give 0 to 1")
        if self._smallest_side() < self.image_size:
            raise ValueError(
                f"data.resize is {self.resize!r}, too small to cut data.image_size="
                f"{self.image_size} from: give a larger number or `smallest`"
            )

    @property
    def is_cacheable(self) -> bool:
        """Whether an example has one result and its mirror image, and no others."""
        return self.crop == "center" or self.resize == "square_bicubic"

    def for_evaluation(self) -> "SquareImage":
        """The same without chance: centre crop, no flip."""
        return replace(self, crop="center", flip_rate=0.0)

    def __call__(
        self, example: Mapping[str, Any], generator: np.random.Generator
    ) -> dict[str, Any]:
        draws = draw(generator)
        pixels = example["image"]
        window = self._window(pixels.shape[0], pixels.shape[1], draws)
        square = _sample(pixels, window, self.image_size, self.resize)
        result = {**example, "image": to_image(square)}
        if self.flip_rate > 0:
            result["flip"] = np.int32(draws.flip < self.flip_rate)
            if result["flip"]:
                result["image"] = mirror(result["image"])
        return result

    def _smallest_side(self) -> int:
        if self.resize in ("smallest", "smallest_antialias", "square_bicubic"):
            return self.image_size
        prefix, _, number = self.resize.partition("_")
        if prefix != "smallest" or not number.isdigit():
            raise ValueError(
                f"data.resize is {self.resize!r}: choose one of {', '.join(RESIZES)}"
            )
        return int(number)

    def _window(self, height: int, width: int, draws: Draws) -> Window:
        if self.resize == "square_bicubic":
            side = min(height, width)
            return Window((width - side) // 2, (height - side) // 2, side, side)
        scale = self._smallest_side() / min(height, width)
        resized_height, resized_width = round(height * scale), round(width * scale)
        top = self._offset(resized_height - self.image_size, draws.top)
        left = self._offset(resized_width - self.image_size, draws.left)
        across, down = width / resized_width, height / resized_height
        size = self.image_size
        return Window(left * across, top * down, size * across, size * down)

    def _offset(self, room: int, chance: float) -> int:
        return room // 2 if self.crop == "center" else int(chance * (room + 1))


@dataclass(frozen=True)
class WithMirror:
    """A picture and its mirror image, `image` `[2, H, W, 3]`, for the latent cache.

    Raises:
      ValueError: if the transform has other results than these two.
    """

    transform: SquareImage

    def __post_init__(self) -> None:
        if self.transform.crop != "center" or self.transform.flip_rate:
            raise ValueError(
                "WithMirror needs a transform without random crop and flip"
            )

    def __call__(
        self, example: Mapping[str, Any], generator: np.random.Generator
    ) -> dict[str, Any]:
        result = self.transform(example, generator)
        image = result["image"]
        return result | {"image": np.stack([image, mirror(image)])}


@dataclass(frozen=True)
class Tokenize:
    """Adds `tokens`, int32 `[l]`: the ids of an example's caption. Draws no numbers.

    Attributes:
      tokenizer: texts to ids, see `tokenizers.Tokenizer`.
    """

    tokenizer: Callable[[Sequence[str]], Int32[np.ndarray, "n l"]]

    def __call__(
        self, example: Mapping[str, Any], generator: np.random.Generator
    ) -> dict[str, Any]:
        del generator
        return {**example, "tokens": self.tokenizer([example["caption"]])[0]}


@dataclass(frozen=True)
class Chain:
    """One transform after the other, with the same generator."""

    transforms: tuple[Callable, ...]

    def __call__(
        self, example: Mapping[str, Any], generator: np.random.Generator
    ) -> Mapping[str, Any]:
        for transform in self.transforms:
            example = transform(example, generator)
        return example


def to_image(pixels: UInt8[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w c"]:
    """uint8 pixels to float32 in [-1, 1], as x / 127.5 - 1."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def mirror(image: np.ndarray) -> np.ndarray:
    """Exchange left and right of `[..., h, w, c]`."""
    return np.ascontiguousarray(image[..., ::-1, :])


def _sample(
    pixels: UInt8[np.ndarray, "h w 3"], window: Window, size: int, resize: str
) -> UInt8[np.ndarray, "size size 3"]:
    """Only the window is ever resized: a 20000x1 strip costs no more than a square."""
    left, top, width, height = window
    if (width, height) == (size, size) and left == int(left) and top == int(top):
        return pixels[int(top) : int(top) + size, int(left) : int(left) + size]
    image = Image.fromarray(pixels)
    box = (left, top, min(left + width, image.width), min(top + height, image.height))
    if resize == "square_bicubic":
        return np.asarray(image.crop(box).resize((size, size), _FILTERS.BICUBIC))
    if resize == "smallest_antialias":
        return np.asarray(image.resize((size, size), _FILTERS.BILINEAR, box))
    coefficients = (width / size, 0, left, 0, height / size, top)
    affine = Image.Transform.AFFINE
    return np.asarray(
        image.transform((size, size), affine, coefficients, _FILTERS.BILINEAR)
    )
