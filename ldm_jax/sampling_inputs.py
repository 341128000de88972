"""What a user asks of a model, checked and as arrays: conditions, pictures, masks."""

# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8

from ldm_jax import build_conditioner
from ldm_jax.arrays import pixels_to_image
from ldm_jax.conditioners.size_and_crop import default_geometry
from ldm_jax.data.layouts import Layout, layout_tokens

if TYPE_CHECKING:
    from ldm_jax.model import Model


def count(num_samples: int | None, *per_picture: Sequence | None) -> int:
    """How many pictures: as asked, or one for each prompt, label, ..., or one.

    Raises:
      ValueError: if none are asked for.
    """
    if num_samples is None:
        rows = [len(v) for v in per_picture if v is not None and not isinstance(v, str)]
        return max([1, *rows])
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}: ask for 1 or more")
    return num_samples


def arrays(conditions: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    """Batch fields as arrays.

    Raises:
      ValueError: for one number where a batch is meant.
    """
    fields = {name: np.asarray(value) for name, value in (conditions or {}).items()}
    for name, value in fields.items():
        if value.ndim == 0:
            raise ValueError(f"{name} is {value}: give a batch of it, [n, ...]")
    return fields


def condition_fields(
    model: Model,
    num_samples: int,
    prompts: Sequence[str] | None,
    class_labels: Sequence[int | str] | None,
    conditions: Mapping[str, np.ndarray] | None,
    *,
    layouts: Sequence[Layout] | None = None,
    size: tuple[int, int] | None = None,
) -> dict[str, np.ndarray]:
    """The batch fields that the model's conditioner reads, `[n or fewer, ...]` each.

    Fewer rows than pictures are repeated in turn. `size` (height, width) is what a model
    of sizes and crops is told, the training size if left out.

    Raises:
      ValueError: names a field that the model does not take, or that it lacks.
    """
    takes, conditions = model.conditioning_fields, dict(conditions or {})
    given = {"text": prompts, "layouts": layouts, "class_label": class_labels}
    for name, value in (given | conditions).items():
        if value is not None and name not in (*takes, *accepted(model)):
            called = {"class_label": "class labels"}.get(name, name)
            raise ValueError(
                f"this model takes no {called}; it is conditioned on "
                f"{', '.join(accepted(model)) or 'nothing'}"
            )
    fields = {name: np.asarray(value) for name, value in conditions.items()}
    if "class_label" in takes:
        fields["class_label"] = _labels(model, num_samples, class_labels)
    if layouts is not None:
        fields["tokens"] = _layout_tokens(model, layouts)
    if "tokens" in takes and "tokens" not in fields and model.tokenizer is not None:
        texts = [prompts] if isinstance(prompts, str) else prompts or [""]
        fields |= prompt_fields(model.tokenizer, texts)
    if "geometry" in takes and "geometry" not in fields:
        side = model.config.data.image_size
        fields["geometry"] = default_geometry(*(size or (side, side)))[None]
    for name in takes:
        if name not in fields:
            raise ValueError(_missing(model, name))
    return fields


def accepted(model: Model) -> tuple[str, ...]:
    """What a model can be told: its batch fields, `tokens` by what they spell."""
    spelled = "tokens" if model.tokenizer is None else "text"
    if build_conditioner.reads_layouts(model.config):
        spelled = "layouts"
    fields = model.conditioning_fields
    return tuple(spelled if name == "tokens" else name for name in fields)


def _layout_tokens(model: Model, layouts: Sequence[Layout]) -> Int32[np.ndarray, "n l"]:
    if not model.class_names:
        raise ValueError(
            "the checkpoint of this model names no classes, so that layouts cannot be "
            "spelled: give their token ids in conditions={'tokens': ...}"
        )
    vocabulary = build_conditioner.layout_tokenizer(
        model.config, len(model.class_names)
    )
    return np.stack([layout_tokens(layout, vocabulary) for layout in layouts])


def hole_fields(
    model: Model,
    pixels: UInt8[np.ndarray, "n H W 3"] | None,
    hole: Bool[np.ndarray, "n H W 1"] | None,
) -> dict[str, np.ndarray]:
    """`masked_image` and `hole`, for a model that was trained to fill holes; else none.

    Raises:
      ValueError: for a picture without a hole.
    """
    if "masked_image" not in model.conditioning_fields or pixels is None:
        return {}
    if hole is None:
        raise ValueError("this model fills holes: give a hole (--mask of sample.py)")
    value = build_conditioner.hole_value(model.ldm.conditioner)
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


def negative_fields(
    tokenizer: Any, negative_prompt: str | None
) -> dict[str, np.ndarray] | None:
    """Token ids `[1, l]` of what to guide away from; None for the null condition.

    Raises:
      ValueError: if the model has no tokenizer.
    """
    if negative_prompt is None:
        return None
    return prompt_fields(tokenizer, [negative_prompt])


def start_picture(
    pixels: UInt8[np.ndarray, "*n H W 3"] | None,
    hole: Bool[np.ndarray, "*n H W"] | None,
    strength: float | None,
) -> dict[str, np.ndarray]:
    """`init_image` `[n H W 3]` and `hole` `[n H W 1]`, those that are given.

    Raises:
      ValueError: for a strength or a hole without a picture, or arrays that are none.
    """
    if pixels is None:
        for name, value in (("strength", strength), ("a hole (mask)", hole)):
            if value is not None:
                raise ValueError(
                    f"{name} needs a picture to start from: give an init_image"
                )
        return {}
    given = {"init_image": np.asarray(pixels)}
    if hole is not None:
        given["hole"] = np.asarray(hole, bool)[..., None]
    for name, array in given.items():
        if array.ndim not in (3, 4):
            raise ValueError(
                f"{name} has shape {array.shape}: give one picture or a batch of them"
            )
        given[name] = array[None] if array.ndim == 3 else array
    return given


def check_resamplings(model: Model, resamplings: int, hole: Any) -> None:
    """Whether the model may draw a hole anew before each step.

    Raises:
      ValueError: if there is no hole, the model sees what is known, or below 0.
    """
    if resamplings < 0:
        raise ValueError(f"resamplings={resamplings} is impossible: give 0 or more")
    if resamplings and hole is None:
        raise ValueError(
            "resamplings fill a hole: give an init_image and a hole (mask)"
        )
    if resamplings and "masked_image" in model.conditioning_fields:
        raise ValueError(
            "this model was trained to fill holes and sees what is around them: leave "
            "resamplings out"
        )


def keep_mask(
    hole: Bool[np.ndarray, "n H W 1"], factor: int
) -> Float[np.ndarray, "n h w 1"]:
    """1 where a latent pixel is known: where none of the pixels it stands for is hole."""
    n, height, width, _ = hole.shape
    blocks = hole.reshape(n, height // factor, factor, width // factor, factor)
    is_hole = np.any(blocks, axis=(2, 4))[..., None]
    return np.where(is_hole, np.float32(0), np.float32(1))


def _missing(model: Model, field: str) -> str:
    if field in ("masked_image", "hole"):
        return (
            "this model fills holes: give an init_image and a hole (--init_image and "
            "--mask of sample.py)"
        )
    if field == "tokens" and build_conditioner.reads_layouts(model.config):
        return "this model draws layouts: give layouts (--layout of sample.py)"
    flags = {"neighbors": "query_image", "low_res": "low_res"}
    flags["segmentation"] = "segmentation"
    hint = f" (--{flags[field]} of sample.py)" if field in flags else ""
    return f"this model needs {field}: give it in conditions={{{field!r}: ...}}{hint}"


def count_classes(model: Model) -> int:
    """How many classes its conditioner, or a part of that, knows; 0 without any."""
    conditioner = model.ldm.conditioner
    parts = (conditioner, *getattr(conditioner, "parts", ()))
    readers = [part for part in parts if "class_label" in getattr(part, "fields", ())]
    return max([getattr(part, "num_classes", 0) for part in readers], default=0)


def _labels(
    model: Model, num_samples: int, class_labels: Sequence[int | str] | None
) -> np.ndarray:
    num_classes = count_classes(model)
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
