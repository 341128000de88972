"""From what stands on the page to the settings of `Model.sample`."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from ldm_jax.arrays import pixels_to_image
from ldm_jax.model import Model
from ldm_jax.picture_inputs import read_label_map
from ldm_jax.samplers import SAMPLERS
from ldm_jax.sampling_inputs import accepted, count_classes

# Where drawing starts from.
NOISE, PICTURE, HOLE = "noise", "a picture", "a hole in a picture"
# Conditions that the page has no input for.
ELSEWHERE = {"layouts": "--layout", "neighbors": "--query_image", "tokens": "--prompt"}
# A painted share of a pixel above this makes it part of the hole.
_IS_PAINTED = 0.25


def starts(model: Model) -> list[str]:
    """What drawing may start from: a model of holes needs one, an enlarging one none."""
    takes = accepted(model)
    if "masked_image" in takes:
        return [HOLE]
    if "low_res" in takes or "segmentation" in takes:
        return [NOISE]
    return [NOISE, PICTURE, HOLE]


def check_page(model: Model) -> None:
    """Whether the page has all that the model needs to be told.

    Raises:
      ValueError: names the flag of sample.py to use instead.
    """
    for name, flag in ELSEWHERE.items():
        if name in accepted(model):
            raise ValueError(
                f"this model is told {name}, for which the page has no input: draw with "
                f"sample.py {flag}"
            )


def class_names(model: Model) -> list[str]:
    """Of the classes it can be told, numbers where it has no names; empty without any."""
    if "class_label" not in accepted(model):
        return []
    return list(model.class_names) or [str(i) for i in range(count_classes(model))]


def takes_eta(sampler: str) -> bool:
    """Whether the sampler has the option."""
    return "eta" in inspect.signature(SAMPLERS[sampler].rows).parameters


def look(model: Model) -> dict[str, dict[str, Any]]:
    """Attributes of the inputs that depend on the model: shown or not, choices, values.

    Names are those of `settings`.
    """
    takes, sampler, classes = accepted(model), model.config.sampler, class_names(model)
    choices = starts(model)
    f = model.ldm.autoencoder.downsampling_factor
    guidance = {"value": max(1.0, float(sampler.guidance_scale))}
    return {
        "prompt": {"visible": "text" in takes},
        "negative_prompt": {"visible": "text" in takes},
        "class_labels": {"visible": bool(classes), "choices": classes, "value": []},
        "low_res": {"visible": "low_res" in takes},
        "longest_side": {
            "visible": "low_res" in takes,
            "value": max(8, model.config.data.image_size // f),
        },
        "segmentation": {"visible": "segmentation" in takes},
        "start": {
            "visible": len(choices) > 1,
            "choices": choices,
            "value": choices[0],
        },
        "picture": {"visible": False},
        "strength": {"visible": False},
        "hole": {"visible": choices[0] == HOLE},
        "sampler": {"value": sampler.name},
        "steps": {"value": int(sampler.num_steps)},
        "guidance_scale": {"visible": can_be_guided(model)} | guidance,
        "eta": {"visible": takes_eta(sampler.name)},
    }


def settings(model: Model, page: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Model.sample`.

    Args:
      page: values by name: `prompt`, `negative_prompt`, `class_labels`, `start` (of
        `starts`), `picture` and `hole` (of Gradio's ImageEditor), `strength`, `low_res`
        (pixels) and `longest_side`, `segmentation` (a path), `sampler`, `steps`,
        `guidance_scale`, `eta`, `seed`, `num_samples`. Those that do not apply to the
        model are ignored.

    Raises:
      ValueError: one sentence on what is missing.
    """
    takes, num_samples = accepted(model), int(page["num_samples"])
    asked: dict[str, Any] = {
        "num_samples": num_samples,
        "batch_size": num_samples,
        "sampler": page["sampler"],
        "steps": int(page["steps"]),
        "seed": int(page["seed"] or 0),
    }
    if takes_eta(page["sampler"]):
        asked["eta"] = float(page["eta"])
    if can_be_guided(model):
        asked["guidance_scale"] = float(page["guidance_scale"])
    if "text" in takes:
        asked["prompts"] = [page["prompt"] or ""]
        asked["negative_prompt"] = page["negative_prompt"] or None
    if "class_label" in takes and page["class_labels"]:
        asked["class_labels"] = list(page["class_labels"])
    if "low_res" in takes:
        small = _small(page["low_res"], int(page["longest_side"]))
        asked["conditions"] = {"low_res": pixels_to_image(small)[None]}
    if "segmentation" in takes:
        if not page["segmentation"]:
            raise ValueError("give a label map: a PNG whose values are labels")
        asked["conditions"] = {
            "segmentation": read_label_map(page["segmentation"])[None]
        }
    return asked | _start(page, model.config.data.image_size)


def can_be_guided(model: Model) -> bool:
    """Whether there is a condition that can be left out."""
    has_null = getattr(model.ldm.conditioner, "has_null", True)
    return has_null and not {"text", "class_label"}.isdisjoint(accepted(model))


def flattened(rgba: np.ndarray | None) -> UInt8[np.ndarray, "H W 3"] | None:
    """A drawing on white; None for none, or for one on which nothing is."""
    if rgba is None or not rgba.size:
        return None
    picture = np.asarray(rgba, np.float32)
    if picture.shape[-1] == 3:
        return picture.astype(np.uint8)
    alpha = picture[..., 3:] / 255
    if not alpha.any():
        return None
    return np.rint(picture[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def painted(
    editor: Mapping[str, Any], size: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """Where there is paint on the layers above the background, at (height, width)."""
    hole = np.zeros(size, bool)
    for layer in editor.get("layers") or []:
        alpha = Image.fromarray(np.ascontiguousarray(layer[..., 3]))
        share = alpha.resize((size[1], size[0]), Image.Resampling.BOX)
        hole |= np.asarray(share) > 255 * _IS_PAINTED
    return hole


def _start(page: Mapping[str, Any], side: int) -> dict[str, Any]:
    """`init_image` with `strength` or `hole`, brought to the training size."""
    if page["start"] == PICTURE:
        pixels = flattened((page["picture"] or {}).get("composite"))
        if pixels is None or (pixels == 255).all():
            raise ValueError("draw something, or put a picture on the canvas")
        return {"init_image": _sized(pixels, side), "strength": float(page["strength"])}
    if page["start"] == HOLE:
        editor = page["hole"] or {}
        pixels = flattened(editor.get("background"))
        if pixels is None:
            raise ValueError("put the picture to fill in on the canvas")
        pixels = _sized(pixels, side)
        hole = painted(editor, pixels.shape[:2])
        if not hole.any():
            raise ValueError("paint over what is to be filled in")
        return {"init_image": pixels, "hole": hole}
    return {}


def _sized(pixels: np.ndarray, side: int) -> UInt8[np.ndarray, "h w 3"]:
    """The shorter side as in training, the proportions as they are."""
    height, width = pixels.shape[:2]
    scale = side / min(height, width)
    size = round(width * scale), round(height * scale)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _small(pixels: np.ndarray | None, longest: int) -> UInt8[np.ndarray, "h w 3"]:
    if pixels is None:
        raise ValueError("give the picture to enlarge")
    picture = Image.fromarray(np.asarray(pixels)[..., :3])
    picture.thumbnail((longest, longest), Image.Resampling.BOX)
    return np.asarray(picture)
