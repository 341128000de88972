"""A latent diffusion model: the composition of its parts, as pure functions.

Parameters come in top-level groups: "backbone" and "conditioner" are trained, the
"autoencoder" is frozen; a conditioner that is not trained may lie in `frozen` too.
"""

import dataclasses
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from ldm_jax.autoencoders.latent import Code, Gaussian
from ldm_jax.conditioners.base import latent_fields, take_field
from ldm_jax.conditioners.compose import Compose
from ldm_jax.diffusion.denoise import Denoised, DenoiseFn
from ldm_jax.diffusion.predictions import Prediction
from ldm_jax.diffusion.schedules import Level, Schedule
from ldm_jax.nn.conditioning import Conditioning
from ldm_jax.rng import named_keys
from ldm_jax.tiling import Tiling, tiled

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
        cond = Conditioning()
        if self.conditioner is not None:
            streams = {"params": keys["conditioner"], "drop": keys["drop"]}
            latents = {
                name: jnp.zeros(self.latent_shape({"image": batch[name]}))
                for name in latent_fields(self.conditioner)
            }
            cond, variables = self.conditioner.init_with_output(
                streams, {**batch, **latents}
            )
            if variables.get("params"):
                params["conditioner"] = variables["params"]
        z, t = jnp.zeros(self.latent_shape(batch)), jnp.zeros(_batch_size(batch))
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
        latent_scale: Float[Array, ""] | float | None = None,
        train: bool = False,
        drop_key: jax.Array | None = None,
        tiling: Tiling | None = None,
    ) -> Conditioning:
        """The condition of a batch; empty for an unconditional model.

        Pictures that the conditioner takes as latents are encoded here by the frozen
        first stage: the mode of the posterior, times `latent_scale`.

        Args:
          latent_scale: needed only by conditioners with `latent_fields`.
          drop_key: drives condition dropout; needed only with `train=True`.
          tiling: of the latents' grid, to encode large pictures in tiles.

        Raises:
          ValueError: if the batch lacks a field, or the latent scale is needed and None.
        """
        if self.conditioner is None:
            return Conditioning()
        for name in latent_fields(self.conditioner):
            if latent_scale is None:
                raise ValueError(
                    f"the batch field {name!r} enters the condition as a latent: pass "
                    "latent_scale to `condition`"
                )
            image = take_field(batch, name)
            z = self.encode_mode(frozen, image, latent_scale, tiling=tiling)
            batch = {**batch, name: z}
        conditioner = _conditioner_params(params, frozen)
        streams = {} if drop_key is None else {"drop": drop_key}
        return _apply(self.conditioner, conditioner, batch, train=train, rngs=streams)

    def encode_mode(
        self,
        frozen: Params,
        image: Float[Array, "b H W 3"],
        latent_scale: Float[Array, ""] | float,
        *,
        tiling: Tiling | None = None,
    ) -> Float[Array, "b h w c"]:
        """Scaled latents in float32 without a draw: the mode of the posterior.

        With a `tiling` of the latents' grid the moments of tiles are blended, those of a
        KL posterior too; the reference has patches for VQ alone.
        """
        autoencoder, f = frozen["autoencoder"], self.autoencoder.downsampling_factor

        def moments(image: Array) -> Array:
            return _apply(self.autoencoder, autoencoder, image, method="encode").moments

        fine = None if tiling is None else tiling.times(f)
        blended = tiled(moments, fine, out_scale=Fraction(1, f))(image)
        latent = self._latent_type.from_moments(blended)
        return latent.mode().astype(jnp.float32) * latent_scale

    def null_condition(
        self,
        params: Params,
        frozen: Params,
        batch_size: int,
        batch: Batch | None = None,
    ) -> Conditioning:
        """The condition that asks for nothing, for classifier-free guidance.

        `batch` is what is asked for: parts of a composed condition that cannot be left
        out keep it (see `Compose.null`).

        Raises:
          ValueError: if the model is unconditional or has no null condition.
        """
        if self.conditioner is None:
            raise ValueError(
                "this model is unconditional and cannot be guided; leave guidance_scale out"
            )
        conditioner = _conditioner_params(params, frozen)
        kept = (batch,) if isinstance(self.conditioner, Compose) else ()
        return _apply(self.conditioner, conditioner, batch_size, *kept, method="null")

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

    def denoise_fn(
        self, params: Params, cond: Conditioning, *, tiling: Tiling | None = None
    ) -> DenoiseFn:
        """The model as samplers see it, with its condition bound.

        With a `tiling` of the latents' grid the network sees one tile at a time, of x and
        of the maps in `cond.concat`, and all tokens and vectors; its outputs are blended.
        """

        def denoise(x: Array, level: Level) -> Denoised:
            t = jnp.full(x.shape[0], level.t, jnp.float32)

            def predict(maps: tuple[Array, Array | None]) -> Array:
                x, concat = maps
                return self.predict(params, x, t, _with_concat(cond, concat))

            output = tiled(predict, tiling)((x, cond.concat))
            return self.prediction.read(
                output, x, level.signal_scale, level.noise_scale
            )

        return denoise

    def decode(
        self,
        frozen: Params,
        z: Float[Array, "b h w c"],
        latent_scale: Float[Array, ""] | float,
        *,
        chunk_size: int | None = None,
        tiling: Tiling | None = None,
    ) -> Float[Array, "b H W 3"]:
        """Images of scaled latents, about [-1, 1] and not clipped.

        Two bounds of the memory: `chunk_size` latents at a time, and of them one tile of
        a `tiling` of their grid.
        """
        autoencoder = frozen["autoencoder"]

        def decode_tile(z: Array) -> Array:
            z = z / latent_scale
            return _apply(self.autoencoder, autoencoder, z, method="decode")

        f = self.autoencoder.downsampling_factor
        decode_all = tiled(decode_tile, tiling, out_scale=f)
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


def _map_chunks(fn: Callable[[Array], Array], x: Array, chunk_size: int) -> Array:
    """`fn` over slices of the batch axis in turn; the last slice is padded."""
    num_chunks = -(-x.shape[0] // chunk_size)
    padding = [(0, num_chunks * chunk_size - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
    chunks = jnp.pad(x, padding).reshape(num_chunks, chunk_size, *x.shape[1:])
    y = jax.lax.map(fn, chunks)
    return y.reshape(-1, *y.shape[2:])[: x.shape[0]]


def _apply(module: nn.Module, params: PyTree, *args: Any, **kwargs: Any) -> Any:
    return module.apply({"params": params}, *args, **kwargs)


def _with_concat(cond: Conditioning, concat: Array | None) -> Conditioning:
    return Conditioning(cond.tokens, concat, cond.vector)


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
