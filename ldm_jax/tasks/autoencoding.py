"""Training a first stage: reconstruction, regulariser and, from a given step, a GAN.

The losses of "Taming Transformers" (Esser et al. 2021) as latent diffusion uses them.
The generator's image-space gradients are taken once and serve twice: for the adaptive
weight, and (combined by it) as the gradient that flows into the autoencoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.adversarial.adaptive_weight import adaptive_weight
from ldm_jax.adversarial.losses import DISCRIMINATOR_LOSSES, generator_loss
from ldm_jax.rng import named_key, named_keys
from ldm_jax.tasks.reconstruction import ReconstructionLoss, reconstruction_loss
from ldm_jax.training.task import Aux, Objective, Task

PyTree = Any
Image = Float[Array, "b H W c"]


@dataclass(frozen=True)
class AdversarialLoss:
    """The discriminator's part in the training of a first stage.

    Attributes:
      disc_loss: "hinge" or "vanilla".
      disc_weight: multiplies the adaptive weight.
      disc_start: optimizer steps (from 0) before the discriminator takes part. Until
        then its cost is skipped, so its BatchNorm statistics start moving only here;
        the original runs it from step 0 and multiplies by 0. Read as batches, which is
        how the published values were counted.
      disc_factor: multiplies both players' losses.
    """

    disc_loss: Literal["hinge", "vanilla"] = "hinge"
    disc_weight: float = 0.5
    disc_start: int = 50_001
    disc_factor: float = 1.0

    def __post_init__(self):
        if self.disc_loss not in DISCRIMINATOR_LOSSES:
            raise ValueError(
                f"disc_loss is {self.disc_loss!r}: choose one of "
                f"{', '.join(DISCRIMINATOR_LOSSES)}"
            )


@dataclass(frozen=True)
class Autoencoding:
    """The networks and losses of one first stage.

    Attributes:
      autoencoder: a module with the methods encode, bottleneck, decode_features and
        to_image, and the parameter decoder/conv_out/kernel.
      reconstruction: see `ReconstructionLoss`.
      regularizer_weight: of the bottleneck's loss (published: KL 1e-6, codebook 1).
      discriminator, adversarial: both, or None for no GAN.
    """

    autoencoder: nn.Module
    reconstruction: ReconstructionLoss
    regularizer_weight: float
    discriminator: nn.Module | None = None
    adversarial: AdversarialLoss | None = None

    def __post_init__(self):
        if (self.discriminator is None) != (self.adversarial is None):
            raise ValueError(
                "a discriminator needs an adversarial loss and the other way round: "
                "give both, or neither for training without a GAN"
            )

    @property
    def gan(self) -> tuple[nn.Module, AdversarialLoss]:
        """The discriminator and its loss, where there must be one."""
        assert self.discriminator is not None and self.adversarial is not None
        return self.discriminator, self.adversarial


def autoencoding_task(spec: Autoencoding) -> Task:
    """Objective "generator" and, with a discriminator, "discriminator" after it.

    Both expect params "autoencoder" (and "discriminator"), frozen `{"lpips": ...}`,
    batches with `image` [b H W 3] in [-1, 1], and, under collections["discriminator"],
    the mutable collections of the discriminator, `{"batch_stats": ...}`.
    """
    if spec.adversarial is None:
        plain = partial(plain_objective, spec)
        return Task({"generator": Objective(("autoencoder",), plain)})
    generator = partial(generator_objective, spec)
    discriminator = partial(discriminator_objective, spec)
    return Task(
        {
            "generator": Objective(("autoencoder",), generator),
            "discriminator": Objective(("discriminator",), discriminator),
        }
    )


def plain_objective(
    spec: Autoencoding,
    params: dict[str, PyTree],
    collections: dict[str, PyTree],
    frozen: PyTree,
    batch: Mapping[str, jax.Array],
    step: jax.Array,
    key: jax.Array,
) -> tuple[Float[Array, ""], Aux]:
    """Reconstruction and regulariser; `training.task.LossFn` once `spec` is bound."""
    del collections, step
    forward = _autoencode(spec, params["autoencoder"], batch["image"], key)
    nll, metrics = reconstruction_loss(
        spec.reconstruction,
        frozen,
        forward.reconstruction,
        batch["image"],
        named_key(key, "crop"),
    )
    total = nll + spec.regularizer_weight * forward.regularizer
    return total, Aux({**metrics, **forward.metrics})


def generator_objective(
    spec: Autoencoding,
    params: dict[str, PyTree],
    collections: dict[str, PyTree],
    frozen: PyTree,
    batch: Mapping[str, jax.Array],
    step: jax.Array,
    key: jax.Array,
) -> tuple[Float[Array, ""], Aux]:
    """Reconstruction, regulariser and adaptively weighted adversarial loss.

    The fake pass also moves the discriminator's BatchNorm statistics.
    """
    image = batch["image"]
    forward = _autoencode(spec, params["autoencoder"], image, key)
    fixed = jax.lax.stop_gradient(forward)

    def nll_fn(reconstruction: Image):
        crop_key = named_key(key, "crop")
        return reconstruction_loss(
            spec.reconstruction, frozen, reconstruction, image, crop_key
        )

    (nll, metrics), nll_gradient = jax.value_and_grad(nll_fn, has_aux=True)(
        fixed.reconstruction
    )
    operands = (jax.lax.stop_gradient(params), collections["discriminator"])
    opponent = _when_started(
        spec.gan[1],
        step,
        partial(_oppose, spec),
        _no_opponent,
        *operands,
        fixed,
        nll_gradient,
    )
    weight = opponent.weight * opponent.factor
    total = nll + weight * opponent.loss
    gradient = nll_gradient + weight * opponent.gradient
    loss = _with_gradient(forward.reconstruction, total, gradient)
    loss += spec.regularizer_weight * forward.regularizer
    metrics |= {
        "g_loss": opponent.loss,
        "d_weight": opponent.weight,
        "disc_factor": opponent.factor,
    }
    updated = {"discriminator": opponent.collections}
    return loss, Aux({**metrics, **forward.metrics}, updated)


def discriminator_objective(
    spec: Autoencoding,
    params: dict[str, PyTree],
    collections: dict[str, PyTree],
    frozen: PyTree,
    batch: Mapping[str, jax.Array],
    step: jax.Array,
    key: jax.Array,
) -> tuple[Float[Array, ""], Aux]:
    """The discriminator against images that the updated autoencoder makes afresh.

    The posterior is sampled anew, as in the original. Real and fake images pass one
    after the other, each with its own batch statistics.
    """
    del frozen
    operands = (params, collections["discriminator"], batch["image"], key)
    loss, metrics, updated = _when_started(
        spec.gan[1],
        step,
        partial(_discriminate, spec),
        partial(_do_not_discriminate, spec),
        *operands,
    )
    return loss, Aux(metrics, {"discriminator": updated})


class _Forward(NamedTuple):
    features: Float[Array, "b H W d"]
    reconstruction: Image
    regularizer: Float[Array, ""]
    metrics: dict[str, jax.Array]


class _Opponent(NamedTuple):
    """What the generator learns from the discriminator: a loss and its gradient."""

    loss: Float[Array, ""]
    gradient: Image
    weight: Float[Array, ""]
    factor: Float[Array, ""]
    collections: PyTree


def _autoencode(
    spec: Autoencoding, params: PyTree, image: Image, key: jax.Array
) -> _Forward:
    keys = named_keys(key, "posterior", "encoder_dropout", "decoder_dropout")
    apply: Any = partial(spec.autoencoder.apply, {"params": params})
    dropout = {"dropout": keys["encoder_dropout"]}
    latent = apply(image, method="encode", rngs=dropout)
    z, regularizer, metrics = apply(latent, keys["posterior"], method="bottleneck")
    dropout = {"dropout": keys["decoder_dropout"]}
    features = apply(z, method="decode_features", rngs=dropout)
    reconstruction = apply(features, method="to_image").astype(jnp.float32)
    metrics = {"regularizer": regularizer, **metrics}
    return _Forward(features, reconstruction, regularizer, metrics)


def _when_started(config: AdversarialLoss, step, started, not_started, *operands):
    """`started(...)` from `disc_start` on and `not_started(...)` until then."""
    if config.disc_start <= 0:
        return started(*operands)
    return jax.lax.cond(step >= config.disc_start, started, not_started, *operands)


def _logits(
    spec: Autoencoding, params: PyTree, collections: PyTree, image: Image
) -> tuple[jax.Array, PyTree]:
    variables = {"params": params["discriminator"], **collections}
    apply: Any = spec.gan[0].apply
    return apply(variables, image, train=True, mutable=list(collections))


def _oppose(
    spec: Autoencoding,
    params: dict[str, PyTree],
    collections: PyTree,
    forward: _Forward,
    nll_gradient: Image,
) -> _Opponent:
    def g_loss_fn(reconstruction: Image):
        logits, updated = _logits(spec, params, collections, reconstruction)
        return generator_loss(logits), updated

    (loss, updated), gradient = jax.value_and_grad(g_loss_fn, has_aux=True)(
        forward.reconstruction
    )
    autoencoder = params["autoencoder"]
    decoder = autoencoder["decoder"]

    def to_image(kernel: jax.Array) -> Image:
        conv_out = {**decoder["conv_out"], "kernel": kernel}
        changed = {**autoencoder, "decoder": {**decoder, "conv_out": conv_out}}
        image: Any = spec.autoencoder.apply(
            {"params": changed}, forward.features, method="to_image"
        )
        return image.astype(jnp.float32)

    kernel = decoder["conv_out"]["kernel"]
    weight = adaptive_weight(to_image, kernel, nll_gradient, gradient)
    config = spec.gan[1]
    factor = jnp.asarray(config.disc_factor, jnp.float32)
    weight = weight * config.disc_weight
    return _Opponent(loss, gradient, weight, factor, updated)


def _no_opponent(params, collections, forward, nll_gradient) -> _Opponent:
    zero = jnp.zeros((), jnp.float32)
    return _Opponent(zero, jnp.zeros_like(nll_gradient), zero, zero, collections)


def _discriminate(spec: Autoencoding, params, collections, image, key):
    autoencoder = jax.lax.stop_gradient(params["autoencoder"])
    fake = _autoencode(spec, autoencoder, image, key).reconstruction
    logits_real, collections = _logits(spec, params, collections, image)
    logits_fake, collections = _logits(spec, params, collections, fake)
    config = spec.gan[1]
    disc_loss = DISCRIMINATOR_LOSSES[config.disc_loss]
    loss = config.disc_factor * disc_loss(logits_real, logits_fake)
    metrics = {
        "disc_loss": loss,
        "logits_real": logits_real.mean(),
        "logits_fake": logits_fake.mean(),
    }
    return loss, metrics, collections


def _do_not_discriminate(spec: Autoencoding, params, collections, image, key):
    zero = jnp.zeros((), jnp.float32)
    metrics = dict.fromkeys(("disc_loss", "logits_real", "logits_fake"), zero)
    return zero, metrics, collections


@jax.custom_vjp
def _with_gradient(x: jax.Array, value: jax.Array, gradient: jax.Array) -> jax.Array:
    """`value`, whose gradient with respect to `x` is known to be `gradient`."""
    return value


_with_gradient.defvjp(
    lambda x, value, gradient: (value, gradient),
    lambda gradient, cotangent: (cotangent * gradient, None, None),
)
