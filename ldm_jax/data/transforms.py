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

from ldm_jax.data.windows import Window, sample_labels, sample_pixels

RESIZES = ("smallest", "smallest_N", "smallest_antialias", "square_bicubic", "area")
CROPS = ("center", "random")


class Draws(NamedTuple):
    """The random numbers of one example, uniform in [0, 1)."""

    top: float
    left: float
    flip: float
    scale: float


def draw(generator: np.random.Generator) -> Draws:
    """Four numbers whatever is made of them; every transform starts with this."""
    return Draws(*generator.random(4))


@dataclass(frozen=True)
class SquareImage:
    """Resize, crop and flip to `image_size` x `image_size`, and say what was done.

    Adds `crop_box` float32 [4], (left, top, right, bottom) of what is shown, relative to
    the source picture before flipping; `original_size` int32 [2], (height, width) of the
    source picture; and `flip`, where `flip_rate` is above zero. A label map
    `segmentation` int [h, w] goes the same way as its picture, by the nearest pixel.

    Attributes:
      image_size: side of the result.
      resize: `smallest`: the shorter side becomes `image_size`, bilinear, as FFHQ,
        CelebA-HQ and ImageNet of the reference (albumentations' SmallestMaxSize).
        `smallest_N`: it becomes N, and a square of `image_size` is cut from that
        (autoencoders: smallest_384). Both sample without low-pass filter, which aliases
        when shrinking far: the reference's behaviour. `smallest_antialias` filters.
        `square_bicubic`: the central square, antialiased bicubic (LSUN of the
        reference); `crop` has then nothing to choose. `area`: a square is cut, then
        resized to the mean over each pixel's area, as OpenCV's INTER_AREA
        (super-resolution of the reference).
      crop: `center`, or `random` along the longer side (and both, for smallest_N).
      flip_rate: probability of mirroring left and right; above zero, the result has a
        `flip` of 0 or 1.
      crop_scale: with `crop="random"`, other than (1, 1): a square is cut first, its
        side uniform in these multiples of the shorter side, then resized. (0.5, 1.0) in
        super-resolution of the reference. A low end of 0 stands for `image_size` pixels,
        so that nothing is enlarged: layouts of the reference.

    Raises:
      ValueError: for an unknown choice, `smallest_N` with N below `image_size` or with a
        crop scale; when called, for a label map of another size than its picture.
    """

    image_size: int
    resize: str = "smallest"
    crop: str = "center"
    flip_rate: float = 0.0
    crop_scale: tuple[float, float] = (1.0, 1.0)

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
        self._check_crop_scale()

    @property
    def is_cacheable(self) -> bool:
        """Whether an example has one result and its mirror image, and no others."""
        is_central = self.resize == "square_bicubic" and not self._is_scaled
        return self.crop == "center" or is_central

    def for_evaluation(self) -> "SquareImage":
        """The same without chance: centre crop, no flip."""
        return replace(self, crop="center", flip_rate=0.0, crop_scale=(1.0, 1.0))

    def __call__(
        self, example: Mapping[str, Any], generator: np.random.Generator
    ) -> dict[str, Any]:
        draws = draw(generator)
        pixels = example["image"]
        height, width = pixels.shape[:2]
        window = self._window(height, width, draws)
        square = sample_pixels(pixels, window, self.image_size, self.resize)
        result = {
            **example,
            "image": to_image(square),
            "crop_box": window.relative_to(height, width),
            "original_size": np.array([height, width], np.int32),
        }
        if "segmentation" in example:
            labels = _checked_labels(example)
            result["segmentation"] = sample_labels(labels, window, self.image_size)
        if self.flip_rate > 0:
            result["flip"] = np.int32(draws.flip < self.flip_rate)
            if result["flip"]:
                result["image"] = mirror(result["image"])
                if "segmentation" in example:
                    flipped = mirror(result["segmentation"][..., None])
                    result["segmentation"] = flipped[..., 0]
        return result

    @property
    def _is_scaled(self) -> bool:
        return self.crop == "random" and tuple(self.crop_scale) != (1.0, 1.0)

    def _check_crop_scale(self) -> None:
        scale = tuple(self.crop_scale)
        if len(scale) != 2 or not 0 <= scale[0] <= scale[1] <= 1 or scale[1] == 0:
            raise ValueError(
                f"data.crop_scale is {scale}: give two rising numbers of 0 to 1, such as "
                "(0.5, 1.0)"
            )
        if self._is_scaled and self.resize.removeprefix("smallest_").isdigit():
            raise ValueError(
                f"data.resize is {self.resize!r}, which fixes the scale of the crop: leave "
                "data.crop_scale at (1.0, 1.0) or take `smallest`"
            )

    def _smallest_side(self) -> int:
        fixed = ("smallest", "smallest_antialias", "square_bicubic", "area")
        if self.resize in fixed:
            return self.image_size
        prefix, _, number = self.resize.partition("_")
        if prefix != "smallest" or not number.isdigit():
            raise ValueError(
                f"data.resize is {self.resize!r}: choose one of {', '.join(RESIZES)}"
            )
        return int(number)

    def _window(self, height: int, width: int, draws: Draws) -> Window:
        if self._is_scaled:
            return self._square(height, width, self._side(height, width, draws), draws)
        if self.resize == "square_bicubic":
            side = min(height, width)
            return Window((width - side) // 2, (height - side) // 2, side, side)
        if self.resize == "area":
            return self._square(height, width, min(height, width), draws)
        scale = self._smallest_side() / min(height, width)
        resized_height, resized_width = round(height * scale), round(width * scale)
        top = self._offset(resized_height - self.image_size, draws.top)
        left = self._offset(resized_width - self.image_size, draws.left)
        across, down = width / resized_width, height / resized_height
        size = self.image_size
        return Window(left * across, top * down, size * across, size * down)

    def _side(self, height: int, width: int, draws: Draws) -> int:
        """Of the square to cut, in pixels of the source."""
        shorter = min(height, width)
        low, high = self.crop_scale
        low = low or min(1.0, self.image_size / shorter)
        return max(1, int(shorter * (low + draws.scale * max(0.0, high - low))))

    def _square(self, height: int, width: int, side: int, draws: Draws) -> Window:
        top = self._offset(height - side, draws.top)
        return Window(self._offset(width - side, draws.left), top, side, side)

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


@dataclass(frozen=True)
class AddGeometry:
    """Adds `geometry`, int32 [6], after `SquareImage`: how the picture was cut.

    (height, width) of the source picture, (top, left) of the crop in its pixels, and
    (height, width) of the result: the micro-conditions of Podell et al. 2023, section
    2.2, who count the crop in pixels after resizing. Of a mirrored picture, left is what
    was cut off on its own left. Draws no numbers.
    """

    def __call__(
        self, example: Mapping[str, Any], generator: np.random.Generator
    ) -> dict[str, Any]:
        del generator
        height, width = example["original_size"]
        left, top, right, _ = example["crop_box"]
        left = 1 - right if example.get("flip", 0) else left
        corner = round(float(top * height)), round(float(left * width))
        target = example["image"].shape[:2]
        geometry = np.array([height, width, *corner, *target], np.int32)
        return {**example, "geometry": geometry}


@dataclass(frozen=True)
class PreparePicture:
    """What a run does with an example: the square, then what conditions are made of it.

    Attributes:
      square: makes the picture.
      conditions: transforms that add batch fields, in this order.
    """

    square: SquareImage
    conditions: tuple[Callable, ...] = ()

    @property
    def is_cacheable(self) -> bool:
        """Whether the picture has one latent, and another for its mirror image."""
        return self.square.is_cacheable

    def for_evaluation(self) -> "PreparePicture":
        """The same with a centre crop and no flip; the generator decides the rest."""
        return replace(self, square=self.square.for_evaluation())

    def __call__(
        self, example: Mapping[str, Any], generator: np.random.Generator
    ) -> Mapping[str, Any]:
        return Chain((self.square, *self.conditions))(example, generator)


def to_image(pixels: UInt8[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w c"]:
    """uint8 pixels to float32 in [-1, 1], as x / 127.5 - 1."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def mirror(image: np.ndarray) -> np.ndarray:
    """Exchange left and right of `[..., h, w, c]`."""
    return np.ascontiguousarray(image[..., ::-1, :])


def _checked_labels(example: Mapping[str, Any]) -> Int32[np.ndarray, "h w"]:
    labels, size = example["segmentation"], example["image"].shape[:2]
    if labels.shape != size:
        shape = "x".join(map(str, labels.shape))
        raise ValueError(
            f"the label map of {example.get('name', 'a picture')} has {shape} pixels and "
            f"the picture {size[0]}x{size[1]}: make them of one size"
        )
    return labels
