"""A trained model as one object: `ldm_jax.load(workdir)`."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from ldm_jax import build
from ldm_jax import config as config_lib
from ldm_jax.arrays import image_to_pixels, pixels_to_image
from ldm_jax.latent_diffusion import LatentDiffusion, make_sample_fn
from ldm_jax.rng import example_keys
from ldm_jax.training import checkpoints

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Model:
    """A latent diffusion model with its parameters.

    Attributes:
      config: what it was trained with.
      ldm: its parts.
      params: parameters of the backbone and the conditioner.
      frozen: `{"autoencoder": ...}`.
      latent_scale: given or measured in training.
      class_names: names by class label; empty without classes.
      step: training steps done.
    """

    config: ConfigDict
    ldm: LatentDiffusion
    params: PyTree
    frozen: PyTree
    latent_scale: Float[np.ndarray, ""]
    class_names: tuple[str, ...]
    step: int

    @property
    def conditioning_fields(self) -> tuple[str, ...]:
        """The batch fields that the model can be conditioned on."""
        field = getattr(self.ldm.conditioner, "field", None)
        return () if field is None else (field,)

    def make_sample_fn(
        self,
        *,
        steps: int | None = None,
        batch_size: int = 1,
        sampler: str | None = None,
        height: int | None = None,
        width: int | None = None,
        **sampler_options: Any,
    ) -> Callable[..., Float[jax.Array, "b H W 3"]]:
        """Noise to images in [-1, 1], pure; arguments as in `make_sample_fn`'s result.

        Sizes are in pixels and default to the training size.

        Raises:
          ValueError: for a size that the model cannot make, or a bad sampler option.
        """
        section = dict(self.config.sampler)
        if sampler is not None and sampler != section["name"]:
            kept = ("num_steps", "guidance_scale")
            section = {"name": sampler, **{k: section[k] for k in kept}}
        section |= sampler_options
        if steps is not None:
            section["num_steps"] = steps
        return make_sample_fn(
            self.ldm,
            build.sampler(section, self.ldm),
            batch_size=batch_size,
            latent_size=self._latent_size(height, width),
            decode_chunk_size=16,
        )

    def sample(
        self,
        num_samples: int = 1,
        *,
        class_labels: Sequence[int | str] | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        **options: Any,
    ) -> UInt8[np.ndarray, "n H W 3"]:
        """Draw pictures; one compilation serves all batches.

        Picture k depends on the seed, k and the settings, not on `num_samples` or
        `batch_size` (but for float rounding).

        Args:
          class_labels: one label or name for each picture, or one for all; drawn in
            turn from all classes if the model has classes and none is given.
          guidance_scale: 1 is no guidance; None is the config's.
          batch_size: pictures at a time; None for all at once.
          options: `steps`, `sampler`, `eta`, `height`, `width`; see `make_sample_fn`.

        Raises:
          ValueError: one sentence for whatever does not fit this model.
        """
        batch_size = min(batch_size or num_samples, num_samples)
        fields = self._fields(num_samples, class_labels)
        scale = self._guidance(guidance_scale)
        sample_fn = jax.jit(self.make_sample_fn(batch_size=batch_size, **options))
        key, images = jax.random.key(seed), []
        for start in range(0, num_samples, batch_size):
            rows = np.arange(start, start + batch_size) % num_samples
            batch = {name: jnp.asarray(value[rows]) for name, value in fields.items()}
            keys = example_keys(key, jnp.asarray(rows))
            image = sample_fn(
                self.params, self.frozen, self.latent_scale, keys, batch, scale
            )
            images.append(np.asarray(image_to_pixels(image)))
        return np.concatenate(images)[:num_samples]

    def encode(
        self, pixels: UInt8[np.ndarray, "n H W 3"]
    ) -> Float[jax.Array, "n h w c"]:
        """Scaled latents: the mode of the posterior."""
        z = self._encode(self.frozen, pixels_to_image(np.asarray(pixels)))
        return z * self.latent_scale

    def decode(self, z: Float[jax.Array, "n h w c"]) -> UInt8[np.ndarray, "n H W 3"]:
        """Pictures of scaled latents."""
        image = self._decode(self.frozen, z, self.latent_scale)
        return np.asarray(image_to_pixels(image))

    @cached_property
    def _encode(self) -> Callable:
        def encode(frozen, image):
            variables = {"params": frozen["autoencoder"]}
            return self.ldm.autoencoder.apply(variables, image, method="encode").mode()

        return jax.jit(encode)

    @cached_property
    def _decode(self) -> Callable:
        return jax.jit(self.ldm.decode)

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

    def _guidance(self, scale: float | None) -> float | None:
        if scale is None:
            scale = self.config.sampler.guidance_scale
        if scale != 1.0 and self.ldm.conditioner is None:
            raise ValueError(
                f"guidance_scale={scale} needs a conditional model, and this one is "
                "unconditional: leave it out"
            )
        return None if scale == 1.0 else scale

    def _fields(
        self, num_samples: int, class_labels: Sequence[int | str] | None
    ) -> dict[str, np.ndarray]:
        if "class_label" not in self.conditioning_fields:
            if class_labels is not None:
                raise ValueError(
                    "this model takes no class labels; it is conditioned on "
                    f"{', '.join(self.conditioning_fields) or 'nothing'}"
                )
            return {}
        num_classes = self.ldm.conditioner.num_classes
        if class_labels is None:
            class_labels = range(num_classes)
        labels = [self._label(label, num_classes) for label in class_labels]
        return {"class_label": np.resize(np.array(labels, np.int32), num_samples)}

    def _label(self, label: int | str, num_classes: int) -> int:
        text = str(label)
        if text in self.class_names:
            return self.class_names.index(text)
        if text.isdigit() and int(text) < num_classes:
            return int(text)
        names = ", ".join(self.class_names) or "none"
        raise ValueError(
            f"no class {text!r}: give a number below {num_classes} or a name of: {names}"
        )


def load(workdir: str | Path, *, step: int | None = None, ema: bool = True) -> Model:
    """Load a trained latent diffusion model from its workdir.

    Args:
      workdir: of a run of train.py with a denoising config.
      step: of the checkpoint; None for the newest.
      ema: averaged parameters if the run kept them, else the raw ones.

    Raises:
      FileNotFoundError, ValueError: one sentence: missing, damaged, or no such model.
    """
    workdir = Path(workdir)
    config = config_lib.load(workdir / "config.json")
    if config.get("task") != "denoising":
        raise ValueError(
            f"{workdir} holds a first stage, which draws no pictures: give the workdir "
            "of a latent diffusion model trained on it"
        )
    item = "ema" if ema and config.train.ema_decay else "params"
    params = checkpoints.load_params(workdir, item=item, step=step)
    collections = checkpoints.load_item(workdir, "collections", step=step)
    meta = checkpoints.load_meta(workdir, step=step)
    return Model(
        config=config,
        ldm=build.latent_diffusion(config),
        params=jax.device_put(params),
        frozen=jax.device_put(build.frozen(config)),
        latent_scale=collections["latent_scale"],
        class_names=tuple(meta.get("class_names", ())),
        step=int(meta["step"]),
    )
