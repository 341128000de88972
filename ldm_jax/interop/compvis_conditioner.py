"""Where a conditioner's parameters lie in a checkpoint of the original code.

Under `cond_stage_model.`, but for a class table that joins the time embedding: that one
belongs to the denoiser there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.conditioners import (
    ClassLabel,
    ClipText,
    Compose,
    Inpainting,
    SpatialRescaler,
    TokenTransformer,
)
from ldm_jax.interop.compvis_class_label import CLASS_LABEL_RULES, CLASS_VECTOR_RULES
from ldm_jax.interop.compvis_spatial_rescaler import SPATIAL_RESCALER_RULES
from ldm_jax.interop.compvis_text import clip_text_rules, token_transformer_rules
from ldm_jax.interop.matching import Part
from ldm_jax.interop.rename import Rules

DENOISER = "model.diffusion_model."
CONDITIONER = "cond_stage_model."
FIRST_STAGE = "first_stage_model."

_SHARED_FIRST_STAGE = (
    r"cond_stage_model\.(encoder|decoder|quantize|(post_)?quant_conv)\..*",
    "the first stage a second time",
)


def conditioner_part(conditioner: Any, template: Mapping[str, Any]) -> Part:
    """The part of a conditioner with parameters, whose flat shapes are `template`.

    Raises:
      ValueError: if the format has no place for it.
    """
    root = ""
    if isinstance(conditioner, Compose):
        names = sorted({name.partition("/")[0] for name in template})
        if len(names) > 1:
            raise ValueError(
                "the CompVis format holds one conditioner, but this model has the parts "
                f"{', '.join(names)}: it cannot be converted"
            )
        root = f"{names[0]}/"
        conditioner = next(p for p in conditioner.parts if p.name == names[0])
    is_vector = isinstance(conditioner, ClassLabel) and conditioner.slot == "vector"
    prefix = DENOISER if is_vector else CONDITIONER
    rules = _rules(conditioner)
    return Part("params", "conditioner", prefix, rules, template, root=root)


def shared_first_stage(conditioner: Any) -> tuple[tuple[str, str], ...]:
    """What `compvis.KNOWN` lacks for a model that encodes its condition itself."""
    shares = any(isinstance(part, Inpainting) for part in _members(conditioner))
    return (_SHARED_FIRST_STAGE,) if shares else ()


def unused_tensors(conditioner: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """What the original's modules hold besides and never use, so that they load strictly.

    Zeros for the text transformer's output layer; position numbers for CLIP; the first
    stage a second time for LDM's inpainting.

    Args:
      conditioner: of the model.
      state: the rest of the file, with lazy or numpy arrays.
    """
    added: dict[str, Any] = {}
    for part in _members(conditioner):
        if isinstance(part, TokenTransformer):
            shape = (part.vocab_size, part.embed_dim)
            layer = f"{CONDITIONER}transformer.to_logits"
            added[f"{layer}.weight"] = np.zeros(shape, np.float32)
            added[f"{layer}.bias"] = np.zeros(shape[:1], np.float32)
        if isinstance(part, ClipText):
            added |= _position_ids(state)
        if isinstance(part, Inpainting) and not isinstance(conditioner, Compose):
            shared = [name for name in state if name.startswith(FIRST_STAGE)]
            added |= {
                CONDITIONER + name.removeprefix(FIRST_STAGE): state[name]
                for name in shared
            }
    return added


def _position_ids(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    embeddings = f"{CONDITIONER}transformer.text_model.embeddings."
    table = state.get(f"{embeddings}position_embedding.weight")
    if table is None:  # OpenCLIP has none
        return {}
    numbers = np.arange(table.shape[0], dtype=np.int64)[None]
    return {f"{embeddings}position_ids": numbers}


def _rules(conditioner: Any) -> Rules:
    match conditioner:
        case ClassLabel():
            is_vector = conditioner.slot == "vector"
            return CLASS_VECTOR_RULES if is_vector else CLASS_LABEL_RULES
        case ClipText():
            return clip_text_rules(conditioner)
        case SpatialRescaler():
            return SPATIAL_RESCALER_RULES
        case TokenTransformer():
            return token_transformer_rules(conditioner.num_layers)
    raise ValueError(
        f"the CompVis format has no place for a {type(conditioner).__name__} conditioner: "
        "it cannot be converted"
    )


def _members(conditioner: Any) -> Sequence[Any]:
    return conditioner.parts if isinstance(conditioner, Compose) else (conditioner,)
