"""A latent diffusion model: the composition of its parts, as pure functions.

Parameters come in top-level groups: "backbone" and "conditioner" are trained, the
"autoencoder" is frozen; a conditioner that is not trained may lie in `frozen` too.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from ldm_jax.arrays import normal_like
from ldm_jax.autoencoders.latent import Code, Gaussian
from ldm_jax.diffusion.denoise import Denoised, DenoiseFn
from ldm_jax.diffusion.predictions import Prediction
from ldm_jax.diffusion.process import scales_at
from ldm_jax.diffusion.schedules import Schedule
from ldm_jax.guidance import classifier_free
from ldm_jax.nn.conditioning import Conditioning, stack
from ldm_jax.rng import example_keys, named_keys
from ldm_jax.samplers.base import Sampler, sample

PyTree = Any
Params = Mapping[str, PyTree]
Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class LatentDiffusion:
    """The parts of a model; holds no parameters.

    Attributes:
      autoencoder: the frozen first stage, a linen module of `ldm_jax.autoencoders`.
      backbone: the denoiser, `(x, t, cond, train) -> [b h w c]`.
      conditioner: `(batch, train) -> Conditioning`, or None for an unconditional model.
      schedule: noise levels.
      prediction: what the backbone outputs.
    """

    autoencoder: Any
    backbone: nn.Module
    conditioner: nn.Module | None
    schedule: Schedule
    prediction: Prediction

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        """Fresh parameters of the backbone and the conditioner for batches like `batch`.

        Shapes are all that counts, so it runs under `jax.eval_shape`.
        """
        keys = named_keys(key, "backbone", "conditioner", "drop")
        params = {}
        if self.conditioner is not None:
            streams = {"params": keys["conditioner"], "drop": keys["drop"]}
            variables = self.conditioner.init(streams, batch)
            params["conditioner"] = variables.get("params", {})
        z, t = jnp.zeros(self.latent_shape(batch)), jnp.zeros(_batch_size(batch))
        cond = self.condition(params, {}, batch)
        variables = self.backbone.init(keys["backbone"], z, t, cond)
        return params | {"backbone": variables["params"]}

    def latent_shape(self, batch: Batch) -> tuple[int, int, int, int]:
        """`[b h w c]` of the latents of a batch of images or of cached moments."""
        if "moments" in batch:
            latent = jax.eval_shape(self._latent_type.from_moments, batch["moments"])
            return jax.eval_shape(lambda latent: latent.mode(), latent).shape
        b, height, width, _ = _image(batch).shape
        f = self.autoencoder.downsampling_factor
        return b, height // f, width // f, self.autoencoder.latent_channels

    def encode(
        self,
        frozen: Params,
        batch: Batch,
        key: jax.Array,
        latent_scale: Float[Array, ""] | float,
    ) -> Float[Array, "b h w c"]:
        """Scaled latents in float32: a posterior sample (KL) or the pre-quantised code (VQ).

        A batch with `moments`, cached from the same first stage, is not encoded again.

        Raises:
          ValueError: if the batch has neither `image` nor `moments`.
        """
        if "moments" in batch:
            latent = self._latent_type.from_moments(batch["moments"])
        else:
            autoencoder, image = frozen["autoencoder"], _image(batch)
            latent = _apply(self.autoencoder, autoencoder, image, method="encode")
        return latent.sample(key).astype(jnp.float32) * latent_scale

    def condition(
        self,
        params: Params,
        frozen: Params,
        batch: Batch,
        *,
        train: bool = False,
        drop_key: jax.Array | None = None,
    ) -> Conditioning:
        """The condition of a batch; empty for an unconditional model.

        `drop_key` drives condition dropout and is needed only with `train=True`.
        """
        if self.conditioner is None:
            return Conditioning()
        conditioner = _conditioner_params(params, frozen)
        streams = {} if drop_key is None else {"drop": drop_key}
        return _apply(self.conditioner, conditioner, batch, train=train, rngs=streams)

    def null_condition(
        self, params: Params, frozen: Params, batch_size: int
    ) -> Conditioning:
        """The condition that asks for nothing, for classifier-free guidance.

        Raises:
          ValueError: if the model is unconditional or has no null condition.
        """
        if self.conditioner is None:
            raise ValueError(
                "this model is unconditional and cannot be guided; leave guidance_scale out"
            )
        conditioner = _conditioner_params(params, frozen)
        return _apply(self.conditioner, conditioner, batch_size, method="null")

    def predict(
        self,
        params: Params,
        x: Float[Array, "b h w c"],
        t: Shaped[Array, " b"],
        cond: Conditioning,
        *,
        train: bool = False,
        dropout_key: jax.Array | None = None,
    ) -> Float[Array, "b h w c"]:
        """The backbone's raw output: eps, x0 or v according to `prediction`."""
        streams = {} if dropout_key is None else {"dropout": dropout_key}
        backbone = params["backbone"]
        return _apply(self.backbone, backbone, x, t, cond, train=train, rngs=streams)

    def denoise_fn(self, params: Params, cond: Conditioning) -> DenoiseFn:
        """The model as samplers see it, with its condition bound."""

        def denoise(x: Array, t: Array) -> Denoised:
            output = self.predict(params, x, t, cond)
            return self.prediction.read(output, x, *scales_at(self.schedule, t, x.ndim))

        return denoise

    def decode(
        self,
        frozen: Params,
        z: Float[Array, "b h w c"],
        latent_scale: Float[Array, ""] | float,
        *,
        chunk_size: int | None = None,
    ) -> Float[Array, "b H W 3"]:
        """Images of scaled latents, about [-1, 1] and not clipped.

        `chunk_size` bounds how many are decoded at a time, and with it the memory.
        """
        autoencoder = frozen["autoencoder"]

        def decode_all(z: Array) -> Array:
            z = z / latent_scale
            return _apply(self.autoencoder, autoencoder, z, method="decode")

        if chunk_size is None or chunk_size >= z.shape[0]:
            return decode_all(z)
        return _map_chunks(decode_all, z, chunk_size)

    @property
    def _latent_type(self) -> type[Gaussian] | type[Code]:
        """What the first stage's moments describe: mean and log-variance, or a code."""
        return {1: Code, 2: Gaussian}[self.autoencoder.moments_per_channel]


def measure_latent_scale(latents: Float[Array, "b h w c"]) -> Float[Array, ""]:
    """1 / std over all elements of one batch, unbiased: the reference's `scale_by_std`.

    Measured once before training and kept, it gives the latents unit variance.
    """
    return 1 / jnp.std(latents.astype(jnp.float32), ddof=1)


def make_sample_fn(
    ldm: LatentDiffusion,
    sampler: Sampler,
    *,
    batch_size: int,
    latent_size: tuple[int, int],
    decode_chunk_size: int | None = None,
) -> Callable[..., Float[Array, "b H W 3"]]:
    """Noise to images as one pure function: jit it, shard it, differentiate it.

    Args:
      ldm: the model.
      sampler: from `SAMPLERS`, on the model's schedule.
      batch_size: images per call.
      latent_size: height and width of the latents; any that the backbone takes.
      decode_chunk_size: images decoded at a time; None for all.

    Returns:
      `sample_fn(params, frozen, latent_scale, key, cond_batch=None, guidance_scale=None,
      uncond_batch=None) -> image` float32 in [-1, 1]. All noise of an image comes from its
      own key: `key` is `[b]` of them, or one, which stands for
      `example_keys(key, arange(b))`; so an image does not depend on the batch it is drawn
      in (but for float rounding). `cond_batch` holds the fields that the conditioner reads. With a `guidance_scale` the backbone runs on doubled batches;
      its value may be traced. `uncond_batch` (a negative prompt) stands in for the null
      condition. The reference skips guidance at scale 1, which is `None` here.
    """

    def sample_fn(
        params: Params,
        frozen: Params,
        latent_scale: Float[Array, ""] | float,
        key: jax.Array,
        cond_batch: Batch | None = None,
        guidance_scale: Float[Array, "*b"] | float | None = None,
        uncond_batch: Batch | None = None,
    ) -> Float[Array, "b H W 3"]:
        cond = ldm.condition(params, frozen, cond_batch or {})
        if guidance_scale is None:
            denoise_fn = ldm.denoise_fn(params, cond)
        else:
            if uncond_batch is None:
                uncond = ldm.null_condition(params, frozen, batch_size)
            else:
                uncond = ldm.condition(params, frozen, uncond_batch)
            doubled = ldm.denoise_fn(params, stack(uncond, cond))
            denoise_fn = classifier_free(doubled, guidance_scale)
        if key.ndim == 0:
            key = example_keys(key, jnp.arange(batch_size))
        keys = named_keys(key, "noise", "steps")
        shape = (batch_size, *latent_size, ldm.autoencoder.latent_channels)
        x_T = normal_like(keys["noise"], jnp.zeros(shape))
        z = sample(denoise_fn, sampler, x_T, keys["steps"])
        image = ldm.decode(frozen, z, latent_scale, chunk_size=decode_chunk_size)
        return jnp.clip(image.astype(jnp.float32), -1, 1)

    return sample_fn


def _map_chunks(fn: Callable[[Array], Array], x: Array, chunk_size: int) -> Array:
    """`fn` over slices of the batch axis in turn; the last slice is padded."""
    num_chunks = -(-x.shape[0] // chunk_size)
    padding = [(0, num_chunks * chunk_size - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
    chunks = jnp.pad(x, padding).reshape(num_chunks, chunk_size, *x.shape[1:])
    y = jax.lax.map(fn, chunks)
    return y.reshape(-1, *y.shape[2:])[: x.shape[0]]


def _apply(module: nn.Module, params: PyTree, *args: Any, **kwargs: Any) -> Any:
    return module.apply({"params": params}, *args, **kwargs)


def _conditioner_params(params: Params, frozen: Params) -> PyTree:
    """Its parameters, trained or frozen; some conditioners have none."""
    return {**frozen, **params}.get("conditioner", {})


def _image(batch: Batch) -> Array:
    if "image" not in batch:
        raise ValueError(
            "the batch has neither 'image' nor 'moments' but only"
            f" {sorted(batch)}; check the data section of the config"
        )
    return batch["image"]


def _batch_size(batch: Batch) -> int:
    return jax.tree.leaves(dict(batch))[0].shape[0]
