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
    SpatialRescaler,
)
from ldm_jax.conditioners.token_conditioner import TokenConditioner
from ldm_jax.data.tokenizers import Tokenizer, load_tokenizer

# Of the section: how the conditioner is trained, not what it is.
RUN_FIELDS = ("trainable", "checkpoint")


def tokenizer(config: ConfigDict, workdir: Path | None = None) -> Tokenizer | None:
    """The tokenizer of `config.tokenizer`; its path is tried under `workdir` first.

    Raises:
      FileNotFoundError, ValueError: one sentence if there is no such vocabulary.
    """
    section = config.get("tokenizer") or {"name": "none"}
    if section["name"] == "none":
        return None
    path = section["path"]
    folder = config_lib.resolve(path, workdir) if path else ""
    pad = section.get("pad", "")
    return load_tokenizer(section["name"], folder, section["max_length"], pad=pad)


def conditioner(config: ConfigDict, workdir: Path | None = None) -> Any:
    """The conditioner of `config.conditioner`, a linen module; None if it names none."""
    section = _described(config.conditioner)
    if section["name"] == "none":
        return None
    return _module(section, "conditioner", config, tokenizer(config, workdir))


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
        if isinstance(part, ClassLabel):
            _check_classes(source, part.num_classes)
        elif isinstance(part, TokenConditioner) and _has_tokenizer(config):
            _check_captions(source)
        elif missing := [f for f in part.fields if f not in source.annotation(0)]:
            raise ValueError(
                f"{source.spec} does not give the batch field {missing[0]!r} that the "
                f"conditioner reads, so this model cannot be trained on it: take "
                "another source or --config.conditioner.name=none (sampling and "
                "converting work)"
            )


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
    if issubclass(constructor, TokenConditioner) and tokenizer is not None:
        section = _text_fields(section, tokenizer) | section
    if constructor is SpatialRescaler:  # down to the latent grid
        section = {"num_stages": len(config.autoencoder.ch_mult) - 1} | section
    if section.get("slot") == "vector":  # as wide as the time embedding it joins
        section["embed_dim"] = 4 * config.backbone.model_channels
    module = sections.from_table(CONDITIONERS, section, where, **derived)
    if isinstance(module, TokenConditioner) and tokenizer is not None:
        _check_tokenizer(module, tokenizer, where)
    return module


def _text_fields(section: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """The length of a text, and the ids of the empty one, which guidance leaves."""
    return {
        "max_length": tokenizer.max_length,
        "null_tokens": tuple(int(token) for token in tokenizer([""])[0]),
    }


def _check_tokenizer(module: Any, tokenizer: Tokenizer, where: str) -> None:
    for name in ("vocab_size", "max_length"):
        ours, theirs = getattr(module, name), getattr(tokenizer, name)
        if ours != theirs:
            raise ValueError(
                f"config.{where}.{name} is {ours} but that of the tokenizer "
                f"{tokenizer.name!r} is {theirs}: choose the tokenizer that the text "
                "encoder was trained with, or make them equal"
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
        case SpatialRescaler():
            shape, dtype = (image_size, image_size), jnp.int32
        case Inpainting():
            square = (image_size, image_size)
            return {
                "masked_image": ((*square, 3), jnp.float32),
                "hole": ((*square, 1), jnp.float32),
            }
        case _:
            name = type(conditioner).__name__
            raise TypeError(f"give the batch fields of {name} their shapes here")
    return {conditioner.field: (shape, dtype)}


def _parts(conditioner: Any) -> tuple[Any, ...]:
    if conditioner is None:
        return ()
    return conditioner.parts if isinstance(conditioner, Compose) else (conditioner,)


def _has_tokenizer(config: ConfigDict) -> bool:
    return (config.get("tokenizer") or {"name": "none"})["name"] != "none"


def _check_classes(source: Any, num_classes: int) -> None:
    found = len(source.class_names)
    if found and found != num_classes:
        raise ValueError(
            f"{source.spec} has {found} classes, but the config says "
            f"--config.conditioner.num_classes={num_classes}: set it to {found}"
        )
    if not found and "class_label" not in source.annotation(0):
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
