"""Noise to images as one pure function: condition, guide, sample, decode."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.arrays import normal_like
from ldm_jax.diffusion.denoise import DenoiseFn, diffuse_to
from ldm_jax.diffusion.schedules import Level
from ldm_jax.guidance import Guidance, guide
from ldm_jax.latent_diffusion import LatentDiffusion
from ldm_jax.nn.conditioning import Conditioning, stack
from ldm_jax.nn.jit import jit
from ldm_jax.rng import example_keys, named_keys
from ldm_jax.samplers.base import Plan, Sampler, sample_with_previews
from ldm_jax.samplers.masked import Known, masked
from ldm_jax.tiling import Tiling

Params = Mapping[str, Any]
Batch = Mapping[str, jax.Array]
Wrap = Callable[[DenoiseFn, Params, Conditioning], DenoiseFn]


@dataclasses.dataclass(frozen=True)
class Parts:
    """What drawing consists of, for those that compose it: see `make_sample_fn`."""

    ldm: LatentDiffusion
    sampler: Sampler
    batch_size: int
    latent_size: tuple[int, int]
    decode_chunk_size: int | None = None
    tiling: Tiling | None = None
    num_resamplings: int = 0
    wrap: Wrap | None = None

    def begin(
        self, key: jax.Array, level: Level, start: Float[Array, "b h w c"] | None
    ) -> tuple[Float[Array, "b h w c"], dict[str, jax.Array]]:
        """What the first step takes, at `level`, and the keys of the others."""
        if key.ndim == 0:
            key = example_keys(key, jnp.arange(self.batch_size))
        keys = named_keys(key, "noise", "steps", "known")
        channels = self.ldm.autoencoder.latent_channels
        shape = (self.batch_size, *self.latent_size, channels)
        x = normal_like(keys["noise"], jnp.zeros(shape))
        if start is not None:
            x = diffuse_to(level, start, x)
        return x, keys

    def condition(
        self,
        params: Params,
        conditioning: Batch | None,
        negative: Batch | None,
        guidance: Guidance | None,
    ) -> tuple[Conditioning, Conditioning | None]:
        """The condition, and for guidance the doubled one with what to lead away from."""
        encode = partial(
            self.ldm.condition,
            params,
            params,
            latent_scale=params["latent_scale"],
            tiling=self.tiling,
        )
        cond = encode(conditioning or {})
        if guidance is None:
            return cond, None
        if negative is None:
            uncond = self.ldm.null_condition(
                params, params, self.batch_size, conditioning
            )
        else:
            uncond = encode(negative)
        return cond, stack(uncond, cond)

    def denoise_fn(
        self,
        params: Params,
        cond: Conditioning,
        doubled: Conditioning | None,
        guidance: Guidance | None,
    ) -> DenoiseFn:
        """The model with its condition bound, guided if there is guidance."""
        if guidance is None or doubled is None:
            denoise_fn = self.ldm.denoise_fn(params, cond, tiling=self.tiling)
        else:
            both = self.ldm.denoise_fn(params, doubled, tiling=self.tiling)
            denoise_fn = guide(both, guidance, prediction=self.ldm.prediction)
        if self.wrap is None:
            return denoise_fn
        return self.wrap(denoise_fn, params, cond)

    def holding(self, known: Known | None, key: jax.Array) -> Sampler:
        """The sampler, with known data held in place if there is any."""
        if known is None:
            return self.sampler
        return masked(self.sampler, known, key, num_resamplings=self.num_resamplings)

    def decode(
        self, params: Params, z: Float[Array, "b h w c"]
    ) -> Float[Array, "b H W 3"]:
        """Images in [-1, 1] of scaled latents."""
        image = self.ldm.decode(
            params,
            z,
            params["latent_scale"],
            chunk_size=self.decode_chunk_size,
            tiling=self.tiling,
        )
        return jnp.clip(image.astype(jnp.float32), -1, 1)


def make_sample_fn(
    ldm: LatentDiffusion,
    sampler: Sampler,
    *,
    batch_size: int,
    latent_size: tuple[int, int],
    decode_chunk_size: int | None = None,
    tiling: Tiling | None = None,
    num_resamplings: int = 0,
    wrap: Wrap | None = None,
) -> Callable[..., Any]:
    """Noise to images as one pure function: jit it, shard it, differentiate it.

    Args:
      ldm: the model.
      sampler: a value of `SAMPLERS`.
      batch_size: images per call.
      latent_size: height and width of the latents; any that the backbone takes.
      decode_chunk_size: images decoded at a time; None for all.
      tiling: of the latents' grid: the memory for large pictures is then that of one
        tile, in the denoiser and both halves of the first stage; None for whole ones.
      num_resamplings: with `known`, calls of the model before each step (see `masked`).
      wrap: `(denoise_fn, params, cond) -> denoise_fn`, around the guided model: a limit
        on x0, a second model, a function of one's own (see `guidance` and
        `diffusion.denoise`). Arrays it needs may lie in further groups of `params`.

    Returns:
      `sample_fn(params, key, plan, conditioning=None, **uses) -> image` `[b H W 3]`,
      float32 in [-1, 1]. Everything that a user turns is an argument, so nothing of it
      compiles anew: `params` has the groups "backbone", "autoencoder", "latent_scale"
      and "conditioner" if there is one; `plan` comes from `sampler.plan` (with `pad`, any
      number of steps); `conditioning` holds the batch fields that the conditioner reads.
      All noise of an image comes from its own key: `key` is `[b]` of them, or one, which
      stands for `example_keys(key, arange(b))`; so an image does not depend on the batch
      it is drawn in (but for float rounding). Uses, each by keyword:

      guidance: a `Guidance`; the backbone then runs on doubled batches. The reference
        skips it at scale 1, which is `None` here.
      negative: batch fields, such as a negative prompt, in place of the null condition.
      start: scaled latents `[b h w c]` to diffuse to the plan's first level and start from
        (see `from_strength`); None for pure noise.
      known: a `Known`: scaled latents to keep, and where.
      preview_steps: int32 `[p]`; the result is then `(image, previews)`, `[p b H W 3]`:
        the model's decoded x0 at these steps.
    """
    parts = Parts(
        ldm,
        sampler,
        batch_size,
        latent_size,
        decode_chunk_size,
        tiling,
        num_resamplings,
        wrap,
    )

    def sample_fn(
        params: Params,
        key: jax.Array,
        plan: Plan,
        conditioning: Batch | None = None,
        *,
        guidance: Guidance | None = None,
        negative: Batch | None = None,
        start: Float[Array, "b h w c"] | None = None,
        known: Known | None = None,
        preview_steps: Array | None = None,
    ) -> Any:
        x, keys = parts.begin(key, plan.start, start)
        conditions = parts.condition(params, conditioning, negative, guidance)
        denoise_fn = parts.denoise_fn(params, *conditions, guidance)
        run = parts.holding(known, keys["known"])
        chosen = jnp.zeros((0,), jnp.int32) if preview_steps is None else preview_steps
        z, previews = sample_with_previews(
            denoise_fn, run, plan, x, keys["steps"], chosen
        )
        to_images = partial(parts.decode, params)
        if preview_steps is None:
            return to_images(z)
        return to_images(z), jax.lax.map(to_images, previews)

    return sample_fn


def jit_sample_fn(
    ldm: LatentDiffusion, sampler: Sampler, **options: Any
) -> Callable[..., Any]:
    """`make_sample_fn`, compiled as one program."""
    return jit(make_sample_fn(ldm, sampler, **options))
