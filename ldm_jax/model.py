"""A trained model as one object: what `ldm_jax.load(workdir)` returns."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8
from ml_collections import ConfigDict

from ldm_jax import build
from ldm_jax import sampling_inputs as inputs
from ldm_jax.arrays import image_to_pixels, pixels_to_image
from ldm_jax.latent_diffusion import LatentDiffusion
from ldm_jax.rng import example_keys
from ldm_jax.sample_fn import Wrap, make_sample_fn
from ldm_jax.samplers.masked import Known
from ldm_jax.training import sharding

PyTree = Any

# More pictures than this are drawn in several batches unless told otherwise.
MAX_BATCH_PER_DEVICE = 16


@dataclasses.dataclass(frozen=True)
class Model:
    """A latent diffusion model with its parameters.

    Attributes:
      config: what it was trained with.
      ldm: its parts.
      params: groups "backbone", "conditioner" (if there is one), "autoencoder" and
        "latent_scale", given or measured in training.
      class_names: names by class label; empty without classes.
      tokenizer: text to token ids; None for a model without text.
      step: training steps done.
    """

    config: ConfigDict
    ldm: LatentDiffusion
    params: PyTree
    class_names: tuple[str, ...] = ()
    tokenizer: Any = None
    step: int = 0

    @property
    def conditioning_fields(self) -> tuple[str, ...]:
        """The batch fields that the model is conditioned on."""
        return tuple(getattr(self.ldm.conditioner, "fields", ()))

    def make_sample_fn(
        self,
        *,
        steps: int | None = None,
        batch_size: int = 1,
        sampler: str | None = None,
        height: int | None = None,
        width: int | None = None,
        wrap: Wrap | None = None,
        **options: Any,
    ) -> Callable[..., Float[jax.Array, "b H W 3"]]:
        """Noise to images in [-1, 1] as a pure function `(params, key, conditioning, ...)`.

        `latent_diffusion.make_sample_fn` with its plan of steps bound; `self.params` are
        the params. Sizes are in pixels and default to the training size; `options` are
        `grid`, `final` and those of the sampler, such as `eta`.

        Raises:
          ValueError: for a size that the model cannot make, or a bad option.
        """
        section = self._section(sampler, steps, options)
        plan = build.sampling_plan(section, self.ldm.schedule)
        size = self._latent_size(height, width)
        sample_fn = make_sample_fn(
            self.ldm,
            build.sampler(section),
            batch_size=batch_size,
            latent_size=size,
            decode_chunk_size=MAX_BATCH_PER_DEVICE,
            wrap=wrap,
        )

        def with_plan(params, key, conditioning=None, **uses):
            return sample_fn(params, key, plan, conditioning, **uses)

        return with_plan

    def sample(self, num_samples: int | None = None, **settings: Any) -> np.ndarray:
        """Draw pictures, uint8 `[n H W 3]`; see `sample_with_previews` for the settings."""
        return self.sample_with_previews(num_samples, preview_steps=(), **settings)[0]

    def sample_with_previews(
        self,
        num_samples: int | None = None,
        *,
        preview_steps: Sequence[int],
        prompts: Sequence[str] | None = None,
        negative_prompt: str | None = None,
        class_labels: Sequence[int | str] | None = None,
        conditions: Mapping[str, np.ndarray] | None = None,
        init_image: UInt8[np.ndarray, "*n H W 3"] | None = None,
        strength: float | None = None,
        hole: Bool[np.ndarray, "*n H W"] | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        height: int | None = None,
        width: int | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        **options: Any,
    ) -> tuple[UInt8[np.ndarray, "n H W 3"], UInt8[np.ndarray, "p n H W 3"]]:
        """Draw pictures, and what the model believed they were at chosen steps.

        Picture k depends on the seed, k and the settings, not on `num_samples` (but for
        float rounding; with the same `batch_size`, to the bit). The number of steps, scales,
        eta, strength, seed and prompts compile nothing anew.

        Args:
          num_samples: n; as many as there are prompts or labels if left out.
          preview_steps: step numbers, 0 the first; those not run are black.
          prompts: one for each picture, or repeated in turn.
          negative_prompt: what to guide away from; nothing if left out.
          class_labels: one label or name for each picture, or repeated in turn; all classes
            in turn if the model has classes and none is given.
          conditions: other batch fields that the model takes, `[n, ...]` or `[1, ...]`.
          init_image: to vary, or to keep outside the hole; of the size to draw.
          strength: with `init_image`, how much of the way from noise is walked again:
            0 gives it back, 1 keeps next to nothing. 0.75 if left out; 1 with a hole.
          hole: True where `init_image` is to be filled in; by a model that was trained to
            if this is one, else by holding the rest (see `samplers.masked`).
          guidance_scale: 1 is no guidance; None is the config's, as for the next two.
          guidance_rescale, guidance_interval: see `guidance.Guidance`.
          seed: of all randomness.
          batch_size: pictures at a time, the last batch padded; None for at most 16 a
            device. Several devices share a batch if its size is a multiple of theirs.
          height, width: in pixels; those of the training if left out.
          sampler, steps: a name in `SAMPLERS` and its number of steps.
          options: `grid`, `final`, and those of the sampler, such as `eta`.

        Raises:
          ValueError: one sentence for whatever does not fit this model.
        """
        num_samples = inputs.count(num_samples, prompts, class_labels)
        size = self._latent_size(height, width)
        image = inputs.start_image(self, init_image, strength, hole, size)
        filled = inputs.hole_fields(self, image, hole)
        fields = inputs.condition_fields(
            self, num_samples, prompts, class_labels, {**(conditions or {}), **filled}
        )
        section = self._section(sampler, steps, options)
        section |= {
            name: value
            for name, value in {
                "guidance_scale": guidance_scale,
                "guidance_rescale": guidance_rescale,
                "guidance_interval": guidance_interval,
            }.items()
            if value is not None
        }
        if strength is None:
            strength = 0.75 if image is not None and hole is None else 1.0
        plan = build.sampling_plan(section, self.ldm.schedule, strength=strength)
        uses: dict[str, Any] = {"guidance": self._guidance(section), "plan": plan}
        if len(preview_steps):  # else the decoder would be compiled for none as well
            uses["preview_steps"] = np.array(preview_steps, np.int32)
        shared = {} if image is None else self._uses_of_image(image, strength, hole)
        if filled:  # such a model sees what is known
            shared.pop("known")
        batch_size = batch_size or min(
            num_samples, MAX_BATCH_PER_DEVICE * jax.device_count()
        )
        draw = partial(self._sample_fn(section["name"], batch_size, size), **uses)
        pixels, previews = [], []
        for start in range(0, num_samples, batch_size):
            rows = np.arange(start, start + batch_size) % num_samples
            image_batch, preview_batch = self._draw_batch(
                draw, rows, fields, shared, negative_prompt, seed
            )
            pixels.append(image_batch)
            previews.append(preview_batch)
        drawn = np.concatenate(pixels)[:num_samples]
        if init_image is not None and hole is not None:
            drawn = np.where(np.asarray(hole)[..., None], drawn, init_image)
        return drawn, np.concatenate(previews, axis=1)[:, :num_samples]

    def _uses_of_image(
        self, pixels: np.ndarray, strength: float, hole: np.ndarray | None
    ) -> dict[str, Any]:
        """Where to start from and what to keep, `[n, ...]`."""
        z = self.encode(pixels)
        uses: dict[str, Any] = {} if strength == 1 else {"start": z}
        if hole is not None:
            hole = np.broadcast_to(hole, pixels.shape[:3])
            keep = inputs.keep_mask(hole, self.ldm.autoencoder.downsampling_factor)
            uses["known"] = Known(z, jnp.asarray(keep))
        return uses

    def encode(
        self, pixels: UInt8[np.ndarray, "n H W 3"]
    ) -> Float[jax.Array, "n h w c"]:
        """Scaled latents: the mode of the posterior."""
        z = self._encode(
            self.params["autoencoder"], pixels_to_image(np.asarray(pixels))
        )
        return z * self.params["latent_scale"]

    def decode(self, z: Float[jax.Array, "n h w c"]) -> UInt8[np.ndarray, "n H W 3"]:
        """Pictures of scaled latents."""
        image = self._decode(self.params, z, self.params["latent_scale"])
        return np.asarray(image_to_pixels(image))

    @cached_property
    def _encode(self) -> Callable:
        def encode(params, image):
            variables = {"params": params}
            return self.ldm.autoencoder.apply(variables, image, method="encode").mode()

        return jax.jit(encode)

    @cached_property
    def _decode(self) -> Callable:
        return jax.jit(self.ldm.decode)

    @cached_property
    def _programs(self) -> dict[tuple, Callable]:
        """Compiled functions by what they are compiled for; jit tells the rest apart."""
        return {}

    def _sample_fn(
        self, sampler: str, batch_size: int, latent_size: tuple[int, int]
    ) -> Callable:
        key = (sampler, batch_size, latent_size)
        if key not in self._programs:
            sample_fn = make_sample_fn(
                self.ldm,
                build.sampler({"name": sampler}),
                batch_size=batch_size,
                latent_size=latent_size,
                decode_chunk_size=MAX_BATCH_PER_DEVICE,
            )
            self._programs[key] = jax.jit(sample_fn)
        return self._programs[key]

    def _draw_batch(
        self,
        draw: Callable,
        rows: np.ndarray,
        fields: Mapping[str, np.ndarray],
        shared: Mapping[str, Any],
        negative_prompt: str | None,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and previews of pictures `rows`, over all devices that share them."""
        batch = {name: value[rows % len(value)] for name, value in fields.items()}
        negative = None
        if negative_prompt is not None:
            fields = inputs.prompt_fields(self.tokenizer, [negative_prompt])
            negative = batch | {k: v.repeat(len(rows), 0) for k, v in fields.items()}
        arrays = {
            "key": example_keys(jax.random.key(seed), jnp.asarray(rows)),
            "conditioning": batch,
            "negative": negative,
            **jax.tree.map(lambda x: x[rows % len(x)], dict(shared)),
        }
        params = self.params
        if len(rows) % jax.device_count() == 0 and jax.device_count() > 1:
            mesh, params = self._on_all_devices
            arrays = jax.device_put(arrays, sharding.batch_sharding(mesh))
        drawn = draw(params, **arrays)
        image, previews = (
            drawn if isinstance(drawn, tuple) else (drawn, drawn[None][:0])
        )
        return np.asarray(image_to_pixels(image)), np.asarray(image_to_pixels(previews))

    @cached_property
    def _on_all_devices(self) -> tuple[jax.sharding.Mesh, PyTree]:
        mesh = sharding.make_mesh()
        return mesh, jax.device_put(self.params, sharding.replicated(mesh))

    def _section(
        self, sampler: str | None, steps: int | None, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The config's `sampler` section with what is asked for in its place.

        Another sampler than the config's keeps levels and guidance, not the options.
        """
        section = self.config.sampler.to_dict()
        if sampler is not None and sampler != section["name"]:
            kept = (*build.LEVEL_FIELDS, *build.GUIDANCE_FIELDS)
            section = {k: section[k] for k in kept} | {"name": sampler}
        if steps is not None:
            section["num_steps"] = steps
        return section | dict(options)

    def _latent_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        f = self.ldm.autoencoder.downsampling_factor
        unit = f * getattr(self.ldm.backbone, "downsampling_factor", 1)
        sizes = [size or self.config.data.image_size for size in (height, width)]
        for name, size in zip(("height", "width"), sizes, strict=True):
            if size < unit or size % unit:
                raise ValueError(
                    f"{name}={size} is impossible for this model: give a multiple of "
                    f"{unit}"
                )
        return sizes[0] // f, sizes[1] // f

    def _guidance(self, section: Mapping[str, Any]) -> Any:
        scale = section["guidance_scale"]
        if scale != 1.0 and self.ldm.conditioner is None:
            raise ValueError(
                f"guidance_scale={scale} needs a conditional model, and this one is "
                "unconditional: leave it out"
            )
        return build.guidance(section)
