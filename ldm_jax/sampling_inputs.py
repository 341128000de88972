"""What a user asks of a model, checked and as arrays: conditions, pictures, masks."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ldm_jax.arrays import pixels_to_image

if TYPE_CHECKING:
    from ldm_jax.model import Model


def count(num_samples: int | None, *per_picture: Sequence | None) -> int:
    """How many pictures: as asked, or one for each prompt or label, or one.

    Raises:
      ValueError: if none are asked for.
    """
    if num_samples is None:
        return max([1] + [len(v) for v in per_picture if v and not isinstance(v, str)])
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}: ask for 1 or more")
    return num_samples


def condition_fields(
    model: Model,
    num_samples: int,
    prompts: Sequence[str] | None,
    class_labels: Sequence[int | str] | None,
    conditions: Mapping[str, np.ndarray] | None,
) -> dict[str, np.ndarray]:
    """The batch fields that the model's conditioner reads, `[n or fewer, ...]` each.

    Fewer rows than pictures are repeated in turn.

    Raises:
      ValueError: names a field that the model does not take, or that it lacks.
    """
    takes, conditions = model.conditioning_fields, dict(conditions or {})
    given = {"tokens": prompts, "class_label": class_labels, **conditions}
    for name, value in given.items():
        if value is not None and name not in takes:
            called = {"tokens": "text", "class_label": "class labels"}.get(name, name)
            raise ValueError(
                f"this model takes no {called}; it is conditioned on "
                f"{', '.join(takes) or 'nothing'}"
            )
    fields = {name: np.asarray(value) for name, value in conditions.items()}
    if "class_label" in takes:
        fields["class_label"] = _labels(model, num_samples, class_labels)
    if "tokens" in takes and "tokens" not in fields and model.tokenizer is not None:
        texts = [prompts] if isinstance(prompts, str) else prompts or [""]
        fields |= prompt_fields(model.tokenizer, texts)
    for name in takes:
        if name not in fields:
            raise ValueError(_missing(name))
    return fields


def hole_fields(
    model: Model,
    pixels: UInt8[np.ndarray, "n H W 3"] | None,
    hole: Bool[np.ndarray, "*n H W"] | None,
) -> dict[str, np.ndarray]:
    """`masked_image` and `hole`, for a model that was trained to fill holes; else none."""
    if "masked_image" not in model.conditioning_fields or pixels is None:
        return {}
    if hole is None:
        raise ValueError("this model fills holes: give a hole (--mask of sample.py)")
    conditioner = model.ldm.conditioner
    parts = (conditioner, *getattr(conditioner, "parts", ()))
    values = [getattr(part, "hole_value", None) for part in parts]
    value = next(value for value in values if value is not None)
    hole = np.broadcast_to(hole, pixels.shape[:3])[..., None]
    masked = np.where(hole, np.float32(value), pixels_to_image(pixels))
    return {"masked_image": masked, "hole": hole.astype(np.float32)}


def prompt_fields(tokenizer: Any, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Token ids `[n, l]` of texts.

    Raises:
      ValueError: if the model has no tokenizer.
    """
    if tokenizer is None:
        raise ValueError("this model takes no text: leave the prompts out")
    return {"tokens": tokenizer(list(prompts))}


def start_image(
    model: Model,
    pixels: np.ndarray | None,
    strength: float | None,
    hole: np.ndarray | None,
    latent_size: tuple[int, int],
) -> UInt8[np.ndarray, "n H W 3"] | None:
    """The picture to start from, of the size to draw.

    Raises:
      ValueError: if its size, or that of the hole, is another; or for a strength or a
        hole without a picture.
    """
    if pixels is None:
        for name, value in (("strength", strength), ("a hole (mask)", hole)):
            if value is not None:
                raise ValueError(
                    f"{name} needs a picture to start from: give an init_image"
                )
        return None
    f = model.ldm.autoencoder.downsampling_factor
    size = latent_size[0] * f, latent_size[1] * f
    pixels = np.asarray(pixels)
    pixels = pixels[None] if pixels.ndim == 3 else pixels
    shapes = {"init_image": pixels.shape[1:3]}
    if hole is not None:
        shapes["hole"] = np.shape(hole)[-2:]
    for name, shape in shapes.items():
        if shape != size:
            raise ValueError(
                f"{name} has {shape[0]}x{shape[1]} pixels but {size[0]}x{size[1]} are "
                "to be drawn: resize it, or give that height and width"
            )
    return pixels


def keep_mask(
    hole: Bool[np.ndarray, "n H W"], factor: int
) -> Float[np.ndarray, "n h w 1"]:
    """1 where a latent pixel is known: where none of the pixels it stands for is hole."""
    n, height, width = hole.shape
    blocks = hole.reshape(n, height // factor, factor, width // factor, factor)
    is_hole = np.any(blocks, axis=(2, 4))[..., None]
    return np.where(is_hole, np.float32(0), np.float32(1))


def _missing(field: str) -> str:
    if field in ("masked_image", "hole"):
        return (
            "this model fills holes: give an init_image and a hole (--init_image and "
            "--mask of sample.py)"
        )
    flag = field in ("low_res", "segmentation")
    return (
        f"this model needs {field}: give it in conditions={{{field!r}: ...}}"
        + f" (--{field} of sample.py)" * flag
    )


def _labels(
    model: Model, num_samples: int, class_labels: Sequence[int | str] | None
) -> np.ndarray:
    num_classes = getattr(model.ldm.conditioner, "num_classes", 0)
    if isinstance(class_labels, str):
        class_labels = [class_labels]
    if class_labels is None:
        class_labels = range(num_classes)
    labels = [_label(model, label, num_classes) for label in class_labels]
    return np.resize(np.array(labels, np.int32), num_samples)


def _label(model: Model, label: int | str, num_classes: int) -> int:
    text = str(label)
    if text in model.class_names:
        return model.class_names.index(text)
    if text.isdigit() and int(text) < num_classes:
        return int(text)
    names = ", ".join(model.class_names) or "none"
    raise ValueError(
        f"no class {text!r}: give a number below {num_classes} or a name of: {names}"
    )
