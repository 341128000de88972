"""Held-out pictures with their conditions, and what a model draws of these."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ldm_jax import build_data
from ldm_jax.arrays import image_to_pixels
from ldm_jax.data.pipeline import keep_numeric
from ldm_jax.model import Model

BATCH_SIZE = 16  # of all that is drawn, so that a program is compiled once

Pixels = UInt8[np.ndarray, "n h w 3"]


@dataclass(frozen=True)
class HeldOut:
    """Pictures of the validation split.

    Attributes:
      pixels: the pictures.
      fields: what the transforms of training make of them, without chance.
      examples: what the source says of each.
      class_names: of the source.
    """

    pixels: Pixels
    fields: dict[str, np.ndarray]
    examples: list[dict[str, Any]]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def labels(self) -> np.ndarray:
        """Class of each, of a source that has one for each picture."""
        return np.array([example["class_label"] for example in self.examples])


def held_out(model: Model, workdir: Path, count: int) -> HeldOut:
    """Evenly spaced pictures of the split `val`, conditioned as `model` was trained.

    The generator of each is seeded with its index, as in validation.
    """
    conditioner = model.ldm.conditioner
    source, transform = build_data.data(model.config, conditioner, workdir, "val")
    transform = transform.for_evaluation()
    chosen = np.linspace(0, len(source) - 1, count).round().astype(int)
    examples = [source[int(index)] for index in chosen]
    rows = [
        keep_numeric(transform(example, np.random.default_rng(index)))
        for index, example in zip(chosen, examples, strict=True)
    ]
    fields = {
        name: np.stack([row[name] for row in rows])
        for name in ("image", *model.conditioning_fields)
    }
    pixels = np.asarray(image_to_pixels(fields.pop("image")))
    return HeldOut(pixels, fields, examples, tuple(source.class_names))


def draw(
    model: Model,
    pictures: HeldOut,
    *,
    steps: int,
    guidance_scale: float | None = None,
    shift: int = 0,
) -> Pixels:
    """One picture for each condition, always from the same noise.

    Args:
      guidance_scale: the config's if None.
      shift: each is given the condition of the picture so many further on. A hole stays
        where it is, in another picture.
    """
    given: dict[str, Any] = {"conditions": {}}
    for name, field in pictures.fields.items():
        rolled = np.roll(field, -shift, axis=0)
        match name:
            case "class_label":
                given["class_labels"] = rolled.tolist()
            case "masked_image":
                given["init_image"] = np.roll(pictures.pixels, -shift, axis=0)
            case "hole":
                given["hole"] = field[..., 0] > 0
            case _:
                given["conditions"][name] = rolled
    return model.sample(
        len(pictures),
        steps=steps,
        guidance_scale=guidance_scale,
        batch_size=BATCH_SIZE,
        **given,
    )
