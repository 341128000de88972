"""The sections `conditioner` and `tokenizer` to objects, and what these ask of the data."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ldm_jax import config as config_lib
from ldm_jax import sections
from ldm_jax.conditioners import (
    CONDITIONERS,
    ClassLabel,
    Compose,
    Concat,
    Inpainting,
    Precomputed,
    SizeAndCrop,
    SpatialRescaler,
)
from ldm_jax.conditioners.token_conditioner import TokenConditioner
from ldm_jax.data.layouts import TokenizeLayout
from ldm_jax.data.tokenizers import Tokenizer, load_tokenizer
from ldm_jax.data.wordpiece import empty_tokens, load_wordpiece

# Of the section: how the conditioner is trained, not what it is.
RUN_FIELDS = ("trainable", "checkpoint")


def tokenizer(config: ConfigDict, workdir: Path | None = None) -> Tokenizer | None:
    """The tokenizer of `config.tokenizer`; its path is tried under `workdir` first.

    None for a model that reads no text, or layouts: see `layout_tokenizer`.

    Raises:
      FileNotFoundError, ValueError: one sentence if there is no such vocabulary.
    """
    section = _tokenizer_section(config)
    if section["name"] in ("none", "layout"):
        return None
    path = section["path"]
    folder = config_lib.resolve(path, workdir) if path else ""
    if _has_own_words(config):
        return load_wordpiece(folder, section["max_length"], section["vocab_size"])
    pad = section.get("pad", "")
    return load_tokenizer(section["name"], folder, section["max_length"], pad=pad)


def reads_layouts(config: ConfigDict) -> bool:
    """Whether the tokens that the model reads are those of layouts."""
    return _tokenizer_section(config)["name"] == "layout"


def layout_tokenizer(config: ConfigDict, num_classes: int) -> TokenizeLayout:
    """How layouts of so many classes are spelled for the model of `config`.

    The fields of `config.tokenizer`, with the vocabulary's size of the conditioner.

    Raises:
      ValueError: one sentence if that is too small for the classes, or for an unknown
        field.
    """
    parts = config_lib.conditioner_parts(config)
    sizes = [part["vocab_size"] for part in parts if "vocab_size" in part]
    fields = {k: v for k, v in _tokenizer_section(config).items() if k != "name"}
    derived = {"num_classes": num_classes, "vocab_size": (sizes or [8192])[0]}
    return sections.call(TokenizeLayout, fields, "tokenizer", **derived)


def hole_value(conditioner: Any) -> float:
    """What the picture to fill in holds in the hole."""
    fills_holes = [p for p in _parts(conditioner) if isinstance(p, Inpainting)]
    return fills_holes[0].hole_value


def conditioner(config: ConfigDict, workdir: Path | None = None) -> Any:
    """The conditioner of `config.conditioner`, a linen module; None if it names none."""
    section = _described(config.conditioner)
    if section["name"] == "none":
        return None
    # A vocabulary of the captions is made after the conditioner, which needs its size.
    words = None if _has_own_words(config) else tokenizer(config, workdir)
    return _module(section, "conditioner", config, words)


def is_trained(config: ConfigDict) -> bool:
    """Whether the conditioner's parameters, if it has any, are trained."""
    return config.conditioner.get("trainable", True)


def example_fields(
    conditioner: Any, batch_size: int, image_size: int, latent_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the batch fields that a conditioner reads."""
    if conditioner is None:
        return {}
    shapes = _field_shapes(conditioner, image_size, latent_size)
    return {
        name: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        for name, (shape, dtype) in shapes.items()
    }


def check_source(config: ConfigDict, conditioner: Any, source: Any) -> None:
    """Whether pictures of `source` come with what the conditioner reads.

    Raises:
      ValueError: one sentence that names the first field they lack.
    """
    for part in _parts(conditioner):
        match part:
            case ClassLabel():
                _check_classes(source, part.num_classes)
            case TokenConditioner() if reads_layouts(config):
                _check_brings(source, "layout")
            case TokenConditioner() if _has_tokenizer(config):
                _check_captions(source)
            case Precomputed() if config.data.get("neighbors"):
                pass
            case Inpainting() | SizeAndCrop() | Concat(field="low_res"):
                pass  # made of the picture
            case _:
                _check_brings(source, part.fields[0])


def _described(section: Mapping[str, Any]) -> dict[str, Any]:
    return {name: section[name] for name in section if name not in RUN_FIELDS}


def _module(
    section: Mapping[str, Any],
    where: str,
    config: ConfigDict,
    tokenizer: Tokenizer | None,
    **named: str,
) -> Any:
    section = dict(section)
    if section["name"] == "compose":
        parts = {name: part for name, part in section.items() if name != "name"}
        return Compose(
            tuple(
                _module(part, f"{where}.{name}", config, tokenizer, name=name)
                for name, part in parts.items()
            )
        )
    constructor = sections.look_up(CONDITIONERS, section["name"], f"{where}.name")
    dtype = jnp.dtype(config.train.precision)
    derived = named | ({"dtype": dtype} if hasattr(constructor, "dtype") else {})
    if issubclass(constructor, TokenConditioner):
        section = _token_fields(config, tokenizer) | section | _own_sizes(config)
    if constructor is SpatialRescaler:  # down to the latent grid
        section = {"num_stages": len(config.autoencoder.ch_mult) - 1} | section
    if section.get("slot") == "vector" or constructor is SizeAndCrop:
        # As wide as the time embedding it joins.
        section["embed_dim"] = 4 * config.backbone.model_channels
    module = sections.from_table(CONDITIONERS, section, where, **derived)
    if isinstance(module, TokenConditioner):
        if tokenizer is not None:
            _check_tokenizer(module, tokenizer, where)
        if reads_layouts(config):
            _check_layouts(module, layout_tokenizer(config, num_classes=1), where)
    return module


def _token_fields(config: ConfigDict, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The length of a text or layout, and the empty one's ids, which guidance leaves."""
    if reads_layouts(config):
        layouts = layout_tokenizer(config, num_classes=1)  # of which there are none
        length, empty = layouts.max_length, layouts.empty_tokens()
    elif _has_own_words(config):
        length = _tokenizer_section(config)["max_length"]
        empty = empty_tokens(length)
    elif tokenizer is not None:
        length, empty = tokenizer.max_length, tokenizer([""])[0]
    else:
        return {}
    return {"max_length": length, "null_tokens": tuple(int(token) for token in empty)}


def _own_sizes(config: ConfigDict) -> dict[str, int]:
    """Of a vocabulary of one's own, which the conditioner's follow."""
    section = _tokenizer_section(config)
    names = ("vocab_size", "max_length") if _has_own_words(config) else ()
    return {name: section[name] for name in names}


def _has_own_words(config: ConfigDict) -> bool:
    return _tokenizer_section(config)["name"] == "wordpiece"


def _check_tokenizer(module: Any, tokenizer: Tokenizer, where: str) -> None:
    for name in ("vocab_size", "max_length"):
        ours, theirs = getattr(module, name), getattr(tokenizer, name)
        if ours != theirs:
            raise ValueError(
                f"config.{where}.{name} is {ours} but that of the tokenizer "
                f"{tokenizer.name!r} is {theirs}: choose the tokenizer that the text "
                "encoder was trained with, or make them equal"
            )


def _check_layouts(module: Any, layouts: TokenizeLayout, where: str) -> None:
    if module.max_length != layouts.max_length:
        raise ValueError(
            f"config.{where}.max_length is {module.max_length} but config.tokenizer."
            f"max_objects={layouts.max_objects} makes {layouts.max_length} tokens: change "
            "one"
        )


def _field_shapes(conditioner: Any, image_size: int, latent_size: int) -> dict:
    """`field -> (shape of one example, dtype)` of the fields a conditioner reads."""
    match conditioner:
        case Compose():
            shapes = {}
            for part in conditioner.parts:
                shapes |= _field_shapes(part, image_size, latent_size)
            return shapes
        case ClassLabel():
            shape, dtype = (), jnp.int32
        case TokenConditioner():
            shape, dtype = (conditioner.max_length,), jnp.int32
        case Precomputed():
            shape = (conditioner.num_tokens, conditioner.embed_dim)
            dtype = jnp.float32
        case Concat():
            shape, dtype = (latent_size, latent_size, 3), jnp.float32
        case SizeAndCrop():
            shape, dtype = (6,), jnp.int32
        case SpatialRescaler():
            shape, dtype = (image_size, image_size), jnp.int32
        case Inpainting():
            square = (image_size, image_size)
            return {
                "masked_image": ((*square, 3), jnp.float32),
                "hole": ((*square, 1), jnp.float32),
            }
        case _ if hasattr(conditioner, "field_shapes"):  # one of a user's own
            return conditioner.field_shapes
        case _:
            name = type(conditioner).__name__
            raise TypeError(f"{name} has no field_shapes: see docs/extending.md")
    return {conditioner.field: (shape, dtype)}


def _parts(conditioner: Any) -> tuple[Any, ...]:
    if conditioner is None:
        return ()
    return conditioner.parts if isinstance(conditioner, Compose) else (conditioner,)


def _tokenizer_section(config: ConfigDict) -> Any:
    """That of older workdirs, which have none, too."""
    return config.get("tokenizer") or {"name": "none"}


def _has_tokenizer(config: ConfigDict) -> bool:
    return _tokenizer_section(config)["name"] != "none"


# What a source lacks, and where it comes from.
_HOW_TO_BRING = {
    "segmentation": "label maps: give --config.data.segmentation=FOLDER of label PNGs",
    "layout": "layouts: give --config.data.layout=FILE, a COCO-format json",
    "neighbors": "neighbours: build an index with tools/build_retrieval_index.py and give "
    "--config.data.neighbors=FOLDER",
    "tokens": "tokens: set --config.tokenizer.name to bert, clip, wordpiece or layout",
}


def _check_brings(source: Any, field: str) -> None:
    if field not in source[0]:
        how = _HOW_TO_BRING.get(
            field, f"{field!r}: take a source whose examples have that field"
        )
        raise ValueError(
            f"the model is conditioned on {field!r}, but {source.spec} has no {how}"
        )


def _check_classes(source: Any, num_classes: int) -> None:
    found = len(source.class_names)
    if found and found != num_classes:
        raise ValueError(
            f"{source.spec} has {found} classes, but the config says "
            f"--config.conditioner.num_classes={num_classes}: set it to {found}"
        )
    if "class_label" not in source.annotation(0):
        raise ValueError(
            f"{source.spec} has no classes, but the config asks for "
            f"--config.conditioner.num_classes={num_classes}: sort the pictures into one "
            "subfolder a class, or set --config.conditioner.name=none"
        )


def _check_captions(source: Any) -> None:
    if "caption" not in source.annotation(0):
        raise ValueError(
            f"{source.spec} has no captions, but the model is conditioned on text: put "
            "x.txt beside each x.jpg or a captions.jsonl into the folder, or set "
            "--config.conditioner.name=none --config.tokenizer.name=none"
        )
