"""Whole diffusers folders in and out: a pipeline, or one network with its `config.json`.

What a folder holds follows from its own `model_index.json` and `config.json` files; no
config of ours is needed. Weights are read one at a time, when the imported trees are.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ldm_jax.interop import matching
from ldm_jax.interop.diffusers_autoencoder import (
    KL,
    VQ,
    autoencoder_config,
    autoencoder_section,
    scaling_factor,
)
from ldm_jax.interop.diffusers_check import check_sections
from ldm_jax.interop.diffusers_fields import uniform
from ldm_jax.interop.diffusers_modules import autoencoder_of, unet_of
from ldm_jax.interop.diffusers_parts import (
    Component,
    autoencoder_component,
    unet_component,
)
from ldm_jax.interop.diffusers_pipelines import (
    PIPELINES,
    component_configs,
    components,
    index_of,
    pipeline_of,
    sections_of,
)
from ldm_jax.interop.diffusers_unet_config import (
    CROSS,
    PLAIN,
    unet_section,
    with_defaults,
)

Sections = dict[str, Any]

INDEX, CONFIG = "model_index.json", "config.json"
SCHEDULER_CONFIG = "scheduler_config.json"
_ALIASES = {"StableDiffusionImg2ImgPipeline": "StableDiffusionPipeline"}
_NOT_IMPORTED = ("safety_checker", "feature_extractor", "image_encoder")
_VERSION = "0.30.0"  # of diffusers, the oldest that written folders are meant for


class SavesFiles(Protocol):
    """What `write_folder` needs of a tokenizer."""

    def save(self, folder: Path) -> None:
        """Write the files that transformers loads."""
        ...


@dataclasses.dataclass(frozen=True)
class Imported:
    """A folder's model.

    Attributes:
      sections: of a config of ours, plain dicts: what the folder says, nothing else.
      trees: lazy float32 arrays by group: "backbone", "autoencoder", "conditioner".
      report: sentences about what was assumed, not looked at, or left out.
      tensors: dtype and shape of everything in the files, by component.
      tokenizer: the folder of its tokenizer, if it has one.
    """

    sections: Sections
    trees: dict[str, Any]
    report: tuple[str, ...]
    tensors: Mapping[str, matching.Infos]
    tokenizer: Path | None = None


def read_folder(
    folder: Path | str, expected: Mapping[str, Any] | None = None
) -> Imported:
    """A diffusers folder in our terms; of the weights, only headers are read here.

    Args:
      folder: holds `model_index.json`, or `config.json` for one network alone.
      expected: sections of a config that the model must fit.

    Raises:
      FileNotFoundError: a file of the folder is missing.
      ValueError: it is no model that ldm_jax can compute, its weights do not fit its
        config, or it is not the expected model; one sentence says what and where.
    """
    folder = Path(folder)
    is_pipeline = (folder / INDEX).is_file()
    read = _read_pipeline if is_pipeline else _read_network
    sections, networks, report = read(folder)
    if expected is not None:
        check_sections(sections, expected, str(folder))
    trees, tensors = {}, {}
    for network in networks:
        tree, infos, left_out = network.read(folder / network.name)
        trees[network.group], tensors[network.name] = tree, infos
        report += [f"left out: {name} ({why})" for name, why in left_out.items()]
    tokenizer = folder / "tokenizer"
    return Imported(
        sections,
        trees,
        tuple(report),
        tensors,
        tokenizer if tokenizer.is_dir() else None,
    )


def write_folder(
    folder: Path | str,
    sections: Mapping[str, Any],
    trees: Mapping[str, Any],
    tokenizer: SavesFiles | None = None,
) -> None:
    """Write a model so that diffusers' `from_pretrained` loads it.

    Args:
      folder: made if need be. A first stage alone becomes a folder of one network.
      sections: of the model's config, with the latent scale that it has.
      trees: parameters by group, arrays or lazy arrays; written in their dtype.
      tokenizer: of a text model.

    Raises:
      ValueError: diffusers has no such model; one sentence names what it lacks.
    """
    folder = Path(folder)
    if "backbone" not in sections:
        _write_first_stage(folder, sections, trees)
        return
    pipeline = pipeline_of(sections)
    configs = component_configs(pipeline, sections)
    text_encoder = PIPELINES[pipeline].text_encoder
    if text_encoder is not None:
        if tokenizer is None:
            name, _ = PIPELINES[pipeline].tokenizer
            raise ValueError(
                f"a {pipeline} needs the tokenizer of its model, and the config has "
                f"none: set config.tokenizer.name to {name!r}"
            )
        tokenizer.save(folder / "tokenizer")
    for network in components(pipeline, sections):
        network.write(folder / network.name, trees)
        _write_json(folder / network.name / CONFIG, configs[network.name])
    _write_json(folder / "scheduler" / SCHEDULER_CONFIG, configs["scheduler"])
    _write_json(folder / INDEX, index_of(pipeline, configs))


def _read_pipeline(folder: Path) -> tuple[Sections, list[Component], list[str]]:
    index = _read_json(folder / INDEX)
    named = str(index.get("_class_name"))
    pipeline = _ALIASES.get(named, named)
    if pipeline not in PIPELINES:
        raise ValueError(
            f"{folder / INDEX} is of a {pipeline}, which ldm_jax has no counterpart for: "
            f"it reads {', '.join(PIPELINES)}"
        )
    layout = PIPELINES[pipeline]
    names = ["unet", layout.first_stage]
    names += [] if layout.text_encoder is None else [layout.text_encoder]
    configs = {name: _read_json(folder / name / CONFIG) for name in names}
    configs["scheduler"] = _read_json(folder / "scheduler" / SCHEDULER_CONFIG)
    _check_classes(
        folder, configs, {"unet": (layout.unet,), layout.first_stage: (KL, VQ)}
    )
    sections, report = sections_of(pipeline, configs)
    report += [
        f"not imported: {name}" for name in _NOT_IMPORTED if any(index.get(name) or ())
    ]
    return sections, components(pipeline, sections), report


def _read_network(folder: Path) -> tuple[Sections, list[Component], list[str]]:
    where = str(folder / CONFIG)
    config = _read_json(folder / CONFIG)
    _check_classes(folder, {"": config}, {"": (KL, VQ, PLAIN, CROSS)})
    if config["_class_name"] in (KL, VQ):
        section, unread = autoencoder_section(config, where)
        network = autoencoder_component("", autoencoder_of(section))
        report = [f"latents were scaled by {scaling_factor(config)}"]
        sections = {"task": "autoencoding", "autoencoder": section}
    else:
        section, unread = unet_section(config, where)
        config, report = with_defaults(config), []
        unet = unet_of(section, config["out_channels"])
        width = None
        if config["_class_name"] == CROSS:
            width = uniform(config, "cross_attention_dim", 1280, where)
        network = unet_component("", unet, config["in_channels"], width)
        sections = {"backbone": section}
    return sections, [network], report + [f"not looked at: {name}" for name in unread]


def _write_first_stage(
    folder: Path, sections: Mapping[str, Any], trees: Mapping[str, Any]
) -> None:
    stage = autoencoder_of(sections["autoencoder"])
    size = sections.get("data", {}).get("image_size", stage.resolution)
    config = autoencoder_config(stage, latent_scale=1.0, sample_size=size)
    # Alone, it does not know by what its denoiser multiplies.
    scale = sections.get("latent", {}).get("scale")
    del config["scaling_factor"]
    config["scaling_factor"] = scaling_factor(config) if scale is None else float(scale)
    autoencoder_component("", stage).write(folder, trees)
    _write_json(folder / CONFIG, config)


def _check_classes(
    folder: Path, configs: Mapping[str, Any], accepted: Mapping[str, tuple[str, ...]]
) -> None:
    for name, kinds in accepted.items():
        kind = configs[name].get("_class_name")
        if kind not in kinds:
            raise ValueError(
                f"{folder / name / CONFIG} is of the class {kind!r}: it must be one of "
                f"{', '.join(kinds)} here"
            )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: give a diffusers folder, with model_index.json and "
            "its components or with one network's config.json"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): get it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no fields: get it again")  # noqa: TRY004
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if "_class_name" in content:
        content = {**content, "_diffusers_version": _VERSION}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
