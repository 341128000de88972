"""Config of the text encoders in diffusers' folders <-> our `conditioner` fields.

`text_encoder/` holds transformers' CLIPTextModel (Stable Diffusion 1 and 2), `bert/` the
LDMBertModel of the LDM text-to-image pipeline.
"""

from collections.abc import Mapping
from typing import Any

from ldm_jax.conditioners.clip_text import ClipText
from ldm_jax.conditioners.token_transformer import TokenTransformer
from ldm_jax.interop.diffusers_fields import check_fields, unsupported

CLIP, BERT = "CLIPTextModel", "LDMBertModel"
Section = Mapping[str, Any]

_CLIP_DEFAULTS = {
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}
_BERT_DEFAULTS = {
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 8,
    "head_dim": 64,
    "vocab_size": 30522,
    "max_position_embeddings": 77,
}


def clip_section(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A `clip_text` section from a CLIPTextModel's `config.json`.

    Raises:
      ValueError: names a field whose value our text encoder has no counterpart for.
    """
    config = _CLIP_DEFAULTS | dict(config)
    check_fields(
        config,
        {
            "model_type": ("clip_text_model", "clip"),
            "hidden_act": ("quick_gelu", "gelu"),
            "layer_norm_eps": (1e-5,),
        },
        where,
    )
    _check_inner_width(config, "intermediate_size", "hidden_size", 2048, where)
    return {
        "name": "clip_text",
        "width": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "vocab_size": config["vocab_size"],
        "max_length": config["max_position_embeddings"],
        "activation": config["hidden_act"],
        "output": "last",
    }


def bert_section(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A `token_transformer` section from an LDMBertModel's `config.json`.

    Raises:
      ValueError: names a field whose value our text encoder has no counterpart for.
    """
    config = _BERT_DEFAULTS | dict(config)
    check_fields(
        config, {"activation_function": ("gelu",), "scale_embedding": (False,)}, where
    )
    _check_inner_width(config, "encoder_ffn_dim", "d_model", 5120, where)
    return {
        "name": "token_transformer",
        "embed_dim": config["d_model"],
        "num_layers": config["encoder_layers"],
        "vocab_size": config["vocab_size"],
        "max_length": config["max_position_embeddings"],
        "num_heads": config["encoder_attention_heads"],
        "head_dim": config["head_dim"],
    }


def clip_config(module: ClipText) -> dict[str, Any]:
    """The `config.json` of a text encoder, for transformers.

    A block that does not count (`output="penultimate"`) is left out, as in the published
    folders of Stable Diffusion 2.

    Raises:
      ValueError: for an output that CLIPTextModel has not.
    """
    if module.output == "pooled":
        raise ValueError(
            "no diffusers pipeline reads conditioner.output='pooled': export with "
            "--format=compvis"
        )
    return {
        "architectures": [CLIP],
        "model_type": "clip_text_model",
        "hidden_size": module.width,
        "intermediate_size": 4 * module.width,
        "projection_dim": module.width,
        "num_hidden_layers": used_layers(module),
        "num_attention_heads": module.num_heads,
        "vocab_size": module.vocab_size,
        "max_position_embeddings": module.max_length,
        "hidden_act": module.activation,
        "layer_norm_eps": 1e-5,
        "bos_token_id": module.vocab_size - 2,
        "eos_token_id": module.vocab_size - 1,
        "pad_token_id": 1,
        "attention_dropout": 0.0,
    }


def bert_config(module: TokenTransformer) -> dict[str, Any]:
    """The `config.json` of a token transformer, for diffusers' LDMBertModel."""
    return {
        "architectures": [BERT],
        "model_type": "ldmbert",
        "d_model": module.embed_dim,
        "encoder_layers": module.num_layers,
        "encoder_ffn_dim": 4 * module.embed_dim,
        "encoder_attention_heads": module.num_heads,
        "head_dim": module.head_dim,
        "vocab_size": module.vocab_size,
        "max_position_embeddings": module.max_length,
        "activation_function": "gelu",
        "scale_embedding": False,
        "pad_token_id": 0,
    }


def used_layers(module: ClipText) -> int:
    """How many of the blocks count towards the output."""
    return module.num_layers - (module.output == "penultimate")


def parts_of(conditioner: Section) -> dict[str, Section]:
    """The parts of a composed conditioner's section by name; none of another's."""
    if conditioner["name"] != "compose":
        return {}
    return {k: v for k, v in conditioner.items() if isinstance(v, Mapping)}


def text_part(conditioner: Section) -> tuple[tuple[str, ...], Section | None]:
    """(where it lies in the conditioner, its section) of a text encoder, if there is one."""
    places = {(): conditioner} | {(k,): v for k, v in parts_of(conditioner).items()}
    for path, section in places.items():
        if section["name"] in ("clip_text", "token_transformer"):
            return path, section
    return (), None


def tokens_dim(text: Section) -> int:
    """Width of the tokens that a text encoder gives."""
    return text["width"] if text["name"] == "clip_text" else text["embed_dim"]


def _check_inner_width(
    config: Mapping[str, Any], inner: str, outer: str, default: int, where: str
) -> None:
    if config.get(inner, default) != 4 * config[outer]:
        value = config.get(inner, default)
        raise unsupported(where, inner, value, f"4 * {outer} = {4 * config[outer]}")
