"""How far a reconstruction is from its image: pixels and perception."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ldm_jax.features.lpips import lpips

Image = Float[Array, "b H W c"]

# The published first stages: KL sums the loss over an image, VQ takes the mean.
PUBLISHED_NLL_REDUCTION = {"kl": "sum", "vq": "mean"}


@dataclass(frozen=True)
class ReconstructionLoss:
    """Negative log-likelihood of an image under its reconstruction, up to constants.

    Every element's loss is its pixel difference plus the image's LPIPS distance, both
    divided by exp(logvar), plus logvar. Under "sum" (published KL models: sum over an
    image, mean over the batch) LPIPS therefore counts once for every element; under
    "mean" (VQ) it counts once.

    Attributes:
      pixel_loss: "l1", or "l2" for squared differences.
      perceptual_weight: of LPIPS; with 0 no LPIPS weights are needed.
      nll_reduction: "sum" or "mean", see above.
      logvar: constant, as in the original, whose optimizers never reach its parameter.
      perceptual_crop: side of a random square, one for each image, on which LPIPS is
        taken during training in place of the whole image; None for the whole image.
      perceptual_dtype: of the VGG16 features.
    """

    pixel_loss: Literal["l1", "l2"] = "l1"
    perceptual_weight: float = 1.0
    nll_reduction: Literal["sum", "mean"] = "sum"
    logvar: float = 0.0
    perceptual_crop: int | None = None
    perceptual_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        _check_choice("pixel_loss", self.pixel_loss, ("l1", "l2"))
        _check_choice("nll_reduction", self.nll_reduction, ("sum", "mean"))


def reconstruction_loss(
    config: ReconstructionLoss,
    frozen: Any,
    reconstruction: Image,
    image: Image,
    key: jax.Array,
) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
    """The loss of `config`, and its parts as metrics.

    Args:
      config: weights and reductions.
      frozen: `{"lpips": params}`, needed if `perceptual_weight` is not 0.
      reconstruction: receives the gradient.
      image: its target, in [-1, 1].
      key: places the perceptual crop.

    Raises:
      ValueError: LPIPS is asked for without its weights, or the crop does not fit.
    """
    difference = reconstruction.astype(jnp.float32) - image
    pixel = jnp.abs(difference) if config.pixel_loss == "l1" else difference**2
    perceptual = _perceptual(config, frozen, reconstruction, image, key)
    total = pixel + config.perceptual_weight * perceptual[:, None, None, None]
    nll = total / jnp.exp(config.logvar) + config.logvar
    loss = nll.mean() if config.nll_reduction == "mean" else nll.sum() / len(image)
    metrics = {
        "nll_loss": loss,
        "rec_loss": total.mean(),
        "pixel_loss": pixel.mean(),
        "perceptual_loss": perceptual.mean(),
    }
    return loss, metrics


def random_crops(
    key: jax.Array, size: int, *images: Image
) -> tuple[Float[Array, "b size size c"], ...]:
    """The same random square of every image in each of `images`; one place per example.

    Raises:
      ValueError: the square is larger than the images.
    """
    num_images, height, width, channels = images[0].shape
    if size > min(height, width):
        raise ValueError(
            f"perceptual_crop={size} is larger than the {height}x{width} images: make it "
            "smaller, or None for the whole image"
        )
    limits = jnp.array([height - size + 1, width - size + 1])
    corners = jax.random.randint(key, (num_images, 2), 0, limits)

    def crop(image, corner):
        start = (corner[0], corner[1], 0)
        return jax.lax.dynamic_slice(image, start, (size, size, channels))

    return tuple(jax.vmap(crop)(batch, corners) for batch in images)


def _perceptual(config, frozen, reconstruction, image, key) -> Float[Array, " b"]:
    if config.perceptual_weight == 0:
        return jnp.zeros(len(image), jnp.float32)
    if "lpips" not in frozen:
        raise ValueError(
            "the perceptual loss needs LPIPS weights: pass find_lpips_weights() as "
            "frozen['lpips'], or set perceptual_weight to 0"
        )
    if config.perceptual_crop is not None:
        crops = random_crops(key, config.perceptual_crop, reconstruction, image)
        reconstruction, image = crops
    return lpips(frozen["lpips"], reconstruction, image, dtype=config.perceptual_dtype)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(choices)}")
