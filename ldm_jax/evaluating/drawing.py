"""Pictures drawn from a model as they are asked for: a set too large to be kept."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, UInt8

from ldm_jax import build
from ldm_jax import sampling_inputs as inputs
from ldm_jax.arrays import image_to_pixels
from ldm_jax.evaluating.picture_sets import Batches, PictureSet
from ldm_jax.model import Model
from ldm_jax.nn.jit import jit
from ldm_jax.rng import example_keys

GUIDANCE = build.GUIDANCE_FIELDS


def truncated(image: Float[Array, "*b h w c"]) -> UInt8[Array, "*b h w c"]:
    """Image in [-1, 1] to pixels, floor(255 (x + 1) / 2): the original scripts."""
    unit = jnp.clip((image.astype(jnp.float32) + 1) / 2, 0, 1)
    return jnp.floor(unit * 255).astype(jnp.uint8)


NUMBER_FORMATS: dict[str, Callable] = {"round": image_to_pixels, "truncate": truncated}


def drawn(
    model: Model,
    num_samples: int,
    *,
    seed: int = 0,
    prompts: Sequence[str] | None = None,
    number_format: str = "round",
    settings: Mapping[str, Any] | None = None,
) -> PictureSet:
    """`num_samples` pictures of `model`; picture k is that of `Model.sample`.

    Classes come in turn, so each has as many pictures as any other, to within one;
    prompts are repeated in turn.

    Args:
      number_format: "round", as sample.py, or "truncate", as the original's scripts.
      settings: of the sampler and its guidance, in place of the config's: `sampler`,
        `steps`, `eta`, `grid`, `final`, `guidance_scale`, ...

    Raises:
      ValueError: for a setting, or a condition, that does not fit the model.
    """
    settings = dict(settings or {})
    guiding = {n: settings.pop(n) for n in GUIDANCE if n in settings}
    if "tokens" in model.conditioning_fields and model.tokenizer and not prompts:
        raise ValueError("this model draws from texts: give --prompts=FILE")
    # Conditions that neither labels nor prompts give are refused here.
    inputs.condition_fields(model, 1, prompts, None, None)
    section = {**dict(model.config.sampler), **guiding}
    guidance = _guidance(model, section)
    size = model.config.data.image_size
    model.make_sample_fn(**settings)  # refuses what does not fit, before any work

    def read(batch_size: int, share: tuple[int, int]) -> Batches:
        draw = _draw_fn(model, batch_size, guidance, number_format, settings)
        index, count = share
        for start in range(index * batch_size, num_samples, count * batch_size):
            rows = np.arange(start, start + batch_size) % num_samples
            fields = _fields(model, rows, prompts)
            keys = example_keys(jax.random.key(seed), jnp.asarray(rows))
            yield draw(keys, fields)[: num_samples - start]

    how = dict(section) | {k: v for k, v in settings.items() if v is not None}
    recipe = {
        "seed": seed,
        "checkpoint_step": model.step,
        "sampling": {k: list(v) if isinstance(v, tuple) else v for k, v in how.items()},
        "resize": model.config.data.get("resize"),
        "number_format": "uint8, rounded" if number_format == "round" else "uint8",
    }
    if "class_label" in model.conditioning_fields:
        recipe["class_labels"] = "all in turn"
    return PictureSet(num_samples, (size, size), read, recipe)


def _guidance(model: Model, section: Mapping[str, Any]) -> Any:
    scale = section["guidance_scale"]
    if scale != 1.0 and model.ldm.conditioner is None:
        raise ValueError(
            f"guidance_scale={scale} needs a conditional model, and this one is "
            "unconditional: leave it out"
        )
    return build.guidance(section)


def _fields(
    model: Model, rows: np.ndarray, prompts: Sequence[str] | None
) -> dict[str, np.ndarray]:
    """The condition of pictures `rows`: prompts or classes in turn."""
    texts = None
    if prompts:
        texts = [str(prompts[row % len(prompts)]) for row in rows]
    labels = None
    if "class_label" in model.conditioning_fields:
        num_classes = getattr(model.ldm.conditioner, "num_classes", 1)
        labels = [int(row % num_classes) for row in rows]
    return inputs.condition_fields(model, len(rows), texts, labels, None)


def _draw_fn(
    model: Model,
    batch_size: int,
    guidance: Any,
    number_format: str,
    settings: Mapping[str, Any],
) -> Callable:
    """Keys `[b]` and fields to pixels `[b H W 3]`, on all local devices."""
    sample_fn = model.make_sample_fn(batch_size=batch_size, **settings)
    to_pixels = NUMBER_FORMATS[number_format]
    devices = np.array(jax.local_devices())
    if batch_size % len(devices):
        devices = devices[:1]
    mesh = Mesh(devices, ("data",))
    params = jax.device_put(model.params, NamedSharding(mesh, P()))

    @jit
    def draw(params, keys, fields):
        return to_pixels(sample_fn(params, keys, fields, guidance=guidance))

    def on_devices(keys: jax.Array, fields: Mapping[str, np.ndarray]) -> np.ndarray:
        arrays = jax.device_put((keys, dict(fields)), NamedSharding(mesh, P("data")))
        return np.asarray(draw(params, *arrays))

    return on_devices
