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

from ldm_jax import build, canvas
from ldm_jax import sampling_inputs as inputs
from ldm_jax.arrays import image_to_pixels, pixels_to_image
from ldm_jax.data.layouts import Layout
from ldm_jax.latent_diffusion import LatentDiffusion
from ldm_jax.nn.jit import jit
from ldm_jax.sample_fn import Wrap, jit_sample_fn, make_sample_fn
from ldm_jax.samplers.masked import Known
from ldm_jax.sampling_batches import Request, draw_in_batches
from ldm_jax.tiling import Tiling
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
      make_program: makes what draws a batch, of the parts and options of
        `make_sample_fn`; `stepwise.make_program` is another such function.
    """

    config: ConfigDict
    ldm: LatentDiffusion
    params: PyTree
    class_names: tuple[str, ...] = ()
    tokenizer: Any = None
    step: int = 0
    make_program: Callable[..., Callable] = jit_sample_fn

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
        tile_size: int | None = None,
        tile_overlap: int | None = None,
        resamplings: int = 0,
        wrap: Wrap | None = None,
        **options: Any,
    ) -> Callable[..., Float[jax.Array, "b H W 3"]]:
        """Noise to images in [-1, 1] as a pure function `(params, key, conditioning, ...)`.

        `latent_diffusion.make_sample_fn` with its plan of steps bound; `self.params` are
        the params. Sizes are in pixels and default to the training size, tiles and
        resamplings are those of `sample_with_previews`; `options` are `grid`, `final` and
        those of the sampler, such as `eta`.

        Raises:
          ValueError: for a size that the model cannot make, or a bad option.
        """
        section = self._section(sampler, steps, options)
        plan = build.sampling_plan(section, self.ldm.schedule)
        drawn = canvas.fit(self, height, width)
        tiling = canvas.tiling(self, drawn.frame, tile_size, tile_overlap)
        sample_fn = make_sample_fn(
            self.ldm,
            build.sampler(section),
            batch_size=batch_size,
            latent_size=drawn.latent_size,
            decode_chunk_size=self._decode_chunk_size(drawn.latent_size, tiling),
            tiling=tiling,
            num_resamplings=resamplings,
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
        layouts: Sequence[Layout] | None = None,
        conditions: Mapping[str, np.ndarray] | None = None,
        init_image: UInt8[np.ndarray, "*n H W 3"] | None = None,
        strength: float | None = None,
        hole: Bool[np.ndarray, "*n H W"] | None = None,
        resamplings: int = 0,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        height: int | None = None,
        width: int | None = None,
        tile_size: int | None = None,
        tile_overlap: int | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        **options: Any,
    ) -> tuple[UInt8[np.ndarray, "n H W 3"], UInt8[np.ndarray, "p n H W 3"]]:
        """Draw pictures, and what the model believed they were at chosen steps.

        Picture k depends on the seed, k and the settings, not on `num_samples` (but for
        float rounding; with the same `batch_size`, to the bit). The number of steps, scales,
        eta, strength, seed and prompts compile nothing anew.

        Args:
          num_samples: n; as many as there are prompts, labels or other conditions if left
            out.
          preview_steps: step numbers, 0 the first; those not run are black.
          prompts: one for each picture, or repeated in turn.
          negative_prompt: what to guide away from; nothing if left out.
          class_labels: one label or name for each picture, or repeated in turn; all classes
            in turn if the model has classes and none is given.
          layouts: for a model of layouts, in the same way.
          conditions: other batch fields that the model takes, `[n, ...]` or `[1, ...]`.
            The size of `low_res` or `segmentation` is that of the result (f times as
            large for `low_res`) and may be any: its border is repeated up to what the
            network takes, and cut off the result.
          init_image: to vary, or to keep outside the hole; any size, which is drawn.
          strength: with `init_image`, how much of the way from noise is walked again:
            0 gives it back, 1 keeps next to nothing. 0.75 if left out; 1 with a hole.
          hole: True where `init_image` is to be filled in; by a model that was trained to
            if this is one, else by holding the rest (see `samplers.masked`). Outside the
            result is `init_image` to the bit.
          resamplings: of the second kind of filling, calls of the model before each step.
          guidance_scale: 1 is no guidance; None is the config's, as for the next two.
          guidance_rescale, guidance_interval: see `guidance.Guidance`.
          seed: of all randomness.
          batch_size: pictures at a time, the last batch padded; None for at most 16 a
            device. Several devices share a batch if its size is a multiple of theirs.
          height, width: in pixels; of the pictures given, else of the training.
          tile_size, tile_overlap: see `canvas.tiling`: pictures of more than twice the
            training size are drawn in tiles of that size unless told otherwise.
          sampler, steps: a name in `SAMPLERS` and its number of steps.
          options: `grid`, `final`, and those of the sampler, such as `eta`.

        Raises:
          ValueError: one sentence for whatever does not fit this model.
        """
        layouts = [layouts] if isinstance(layouts, Layout) else layouts
        inputs.check_resamplings(self, resamplings, hole)
        start = inputs.start_picture(init_image, hole, strength)
        conditions = inputs.arrays(conditions)
        num_samples = inputs.count(
            num_samples, prompts, class_labels, layouts, *(start | conditions).values()
        )
        taken = {k: v for k, v in conditions.items() if k in self.conditioning_fields}
        shown = canvas.fit(self, height, width, start | taken)
        tiling = canvas.tiling(self, shown.frame, tile_size, tile_overlap)
        framed = {name: shown.pad(name, value) for name, value in start.items()}
        filled = inputs.hole_fields(self, framed.get("init_image"), framed.get("hole"))
        fields = inputs.condition_fields(
            self,
            num_samples,
            prompts,
            class_labels,
            conditions | filled,
            layouts=layouts,
            size=shown.size,
        )
        guiding = {
            "guidance_scale": guidance_scale,
            "guidance_rescale": guidance_rescale,
            "guidance_interval": guidance_interval,
        }
        given = {name: value for name, value in guiding.items() if value is not None}
        section = self._section(sampler, steps, given | options)
        if strength is None:
            strength = 0.75 if start and hole is None else 1.0
        plan = build.sampling_plan(section, self.ldm.schedule, strength=strength)
        uses: dict[str, Any] = {"guidance": self._guidance(section), "plan": plan}
        if len(preview_steps):  # else the decoder would be compiled for none as well
            uses["preview_steps"] = np.array(preview_steps, np.int32)
        shared = self._uses_of_picture(framed, strength, tiling)
        if filled:  # such a model sees what is known
            shared.pop("known")
        batch_size = batch_size or min(
            num_samples, MAX_BATCH_PER_DEVICE * jax.device_count()
        )
        program = self._sample_fn(
            section["name"], batch_size, shown.latent_size, tiling, resamplings
        )
        request = Request(
            num_samples,
            seed,
            {name: shown.pad(name, value) for name, value in fields.items()},
            inputs.negative_fields(self.tokenizer, negative_prompt),
            shared,
        )
        draw = partial(program, **uses)
        is_shared = batch_size % jax.device_count() == 0 and jax.device_count() > 1
        mesh, params = self._on_all_devices if is_shared else (None, self.params)
        drawn, previews = draw_in_batches(draw, params, request, batch_size, mesh)
        drawn = shown.crop(drawn)
        if "hole" in start:
            known = {k: v[np.arange(num_samples) % len(v)] for k, v in start.items()}
            drawn = np.where(known["hole"], drawn, known["init_image"])
        return drawn, shown.crop(previews)

    def _uses_of_picture(
        self, framed: Mapping[str, np.ndarray], strength: float, tiling: Tiling | None
    ) -> dict[str, Any]:
        """Where to start from and what to keep, `[n, ...]`."""
        if "init_image" not in framed:
            return {}
        pixels = framed["init_image"]
        z = self._encode(pixels, tiling)
        uses: dict[str, Any] = {} if strength == 1 else {"start": z}
        if "hole" in framed:
            hole, f = framed["hole"], self.ldm.autoencoder.downsampling_factor
            uses["known"] = Known(z, jnp.asarray(inputs.keep_mask(hole, f)))
        return uses

    def encode(
        self, pixels: UInt8[np.ndarray, "n H W 3"]
    ) -> Float[jax.Array, "n h w c"]:
        """Scaled latents: the mode of the posterior; of large pictures in tiles."""
        pixels = np.asarray(pixels)
        height, width = pixels.shape[1:3]
        return self._encode(pixels, canvas.tiling(self, (height, width)))

    def decode(self, z: Float[jax.Array, "n h w c"]) -> UInt8[np.ndarray, "n H W 3"]:
        """Pictures of scaled latents; large ones in tiles."""
        f = self.ldm.autoencoder.downsampling_factor
        tiling = canvas.tiling(self, (f * z.shape[1], f * z.shape[2]))
        scale = self.params["latent_scale"]
        image = self._decode_fn(self.params, z, scale, tiling=tiling)
        return np.asarray(image_to_pixels(image))

    def _encode(self, pixels: np.ndarray, tiling: Tiling | None) -> jax.Array:
        image, scale = pixels_to_image(pixels), self.params["latent_scale"]
        return self._encode_fn(self.params, image, scale, tiling=tiling)

    @cached_property
    def _encode_fn(self) -> Callable:
        return jit(self.ldm.encode_mode, static_argnames="tiling")

    @cached_property
    def _decode_fn(self) -> Callable:
        return jit(self.ldm.decode, static_argnames="tiling")

    @cached_property
    def _programs(self) -> dict[tuple, Callable]:
        """Compiled functions by what they are compiled for; jit tells the rest apart."""
        return {}

    def _sample_fn(
        self,
        sampler: str,
        batch_size: int,
        latent_size: tuple[int, int],
        tiling: Tiling | None,
        resamplings: int,
    ) -> Callable:
        key = (sampler, batch_size, latent_size, tiling, resamplings)
        if key not in self._programs:
            self._programs[key] = self.make_program(
                self.ldm,
                build.sampler({"name": sampler}),
                batch_size=batch_size,
                latent_size=latent_size,
                decode_chunk_size=self._decode_chunk_size(latent_size, tiling),
                tiling=tiling,
                num_resamplings=resamplings,
            )
        return self._programs[key]

    def _decode_chunk_size(
        self, latent_size: tuple[int, int], tiling: Tiling | None
    ) -> int:
        """As many at a time as have the pixels of a batch of the training size."""
        f = self.ldm.autoencoder.downsampling_factor
        height, width = latent_size if tiling is None else tiling.fitted(*latent_size)
        pixels = height * width * f**2
        usual = MAX_BATCH_PER_DEVICE * self.config.data.image_size**2
        return min(MAX_BATCH_PER_DEVICE, max(1, usual // pixels))

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

    def _guidance(self, section: Mapping[str, Any]) -> Any:
        scale = section["guidance_scale"]
        if scale != 1.0 and self.ldm.conditioner is None:
            raise ValueError(
                f"guidance_scale={scale} needs a conditional model, and this one is "
                "unconditional: leave it out"
            )
        return build.guidance(section)
