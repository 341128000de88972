"""Published checkpoints to workdirs, and back (`ldm_jax.conversion.exporting`)."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ldm_jax.conversion import describing, identifying, imported_workdir
from ldm_jax.conversion.checkpoint_file import (
    File,
    average_details,
    latent_scale,
    nonfinite_warnings,
    open_file,
    schedule_warnings,
)
from ldm_jax.conversion.exporting import export_checkpoint
from ldm_jax.conversion.identifying import Candidates
from ldm_jax.conversion.imported_workdir import Imported
from ldm_jax.conversion.inspecting import (
    diffusers_models,
    diffusers_report,
    file_report,
)
from ldm_jax.interop import diffusers, matching
from ldm_jax.interop.report import Report
from ldm_jax.training.checkpoints import CheckpointError

__all__ = ["export_checkpoint", "import_checkpoint", "import_diffusers"]


def import_checkpoint(
    path: str | Path,
    config: ConfigDict,
    output: str | Path,
    *,
    name: str = "this config",
    candidates: Candidates | None = None,
) -> Report:
    """Write the workdir of a published checkpoint; see `imported_workdir`.

    Args:
      path: a .ckpt, .pt, .bin or .safetensors file in the original code's names.
      config: of the model that it holds.
      output: a folder that is new or empty; complete, or not there, when this returns.
      name: what messages call the config.
      candidates: configs of published models, to say which one a file fits if it is not
        `config`, and to give the first stage's workdir a whole config.

    Returns:
      What was found; `str` of it is the report to print.

    Raises:
      FileNotFoundError, ValueError: one sentence: the file is damaged or unsafe, is of
        another model (it is named), `output` is taken, or the disk is full.
    """
    candidates = candidates or {}
    with imported_workdir.new_folder(output) as folder:
        file = open_file(path)
        description = describing.describe(config)
        found = matching.match(file.infos, description.parts, description.known)
        if not found.is_exact:
            raise ValueError(_misfit(file, name, found, candidates))
        details, warnings = average_details(file), []
        nonfinite: list[str] = []
        items = dict(matching.imported(found, file.read))
        for item, tree in items.items():
            items[item] = imported_workdir.watched(tree, item, nonfinite)
        first_stage = items.pop("frozen", {}).get("autoencoder")
        if description.ldm is not None:
            scale, warnings = latent_scale(file, config)
            warnings += schedule_warnings(file, description.ldm.schedule)
            items["collections"] = {"latent_scale": np.float32(scale)}
            details["latent scale"] = scale
        model = Imported(config, items, first_stage, file.step or 0)
        _write(folder, output, model, candidates)
        warnings += nonfinite_warnings(nonfinite)
        result = file_report(file, (name,), found, warnings, details)
        _write_report(folder, result)
    return result


def import_diffusers(
    path: str | Path,
    output: str | Path,
    *,
    expected: ConfigDict | None = None,
    candidates: Candidates | None = None,
) -> Report:
    """Write the workdir of a diffusers folder, whose own configs describe the model.

    Args:
      path: a pipeline's folder, or that of one first stage.
      output, candidates: as for `import_checkpoint`. The config's other sections
        (training, data, optimizer) come from the first candidate with the same task.
      expected: a config that the model must fit, and then the one to take those from.

    Raises:
      FileNotFoundError, ValueError: as for `import_checkpoint`.
    """
    wanted = None if expected is None else expected.to_dict()
    with imported_workdir.new_folder(output) as folder:
        found = diffusers.read_folder(path, wanted)
        if "task" not in found.sections:
            raise ValueError(
                f"{path} is a denoiser alone: give the folder of the whole pipeline, "
                "the one with model_index.json"
            )
        nonfinite: list[str] = []
        params = imported_workdir.watched(found.trees, "params", nonfinite)
        base = expected or _of_task(found.sections["task"], candidates or {})
        config = _with_sections(base, found.sections)
        items: dict[str, Any] = {"params": params}
        first_stage, details = None, {}
        if config.task == "denoising":
            first_stage = params.pop("autoencoder")
            scale = float(config.latent.scale)
            items["collections"] = {"latent_scale": np.float32(scale)}
            details["latent scale"] = scale
        model = Imported(config, items, first_stage, tokenizer=found.tokenizer)
        _write(folder, output, model, candidates or {})
        warnings = (*found.report, *nonfinite_warnings(nonfinite))
        models = diffusers_models(found, candidates or {})
        result = diffusers_report(path, found, models, warnings, details)
        _write_report(folder, result)
    return result


def _misfit(
    file: File, name: str, found: matching.Match, candidates: Candidates
) -> str:
    """The sentence for a file of another model than the config `name`."""
    identity = identifying.identify(file.infos, candidates)
    if identity.models:
        models = " or ".join(f"--model={model}" for model in identity.models)
        return f"{file.path} is not {name}: its names and shapes are those of {models}"
    sentence = f"{file.path} does not fit {name} ({found.difference()})"
    if identity.nearest in ("", name):
        return f"{sentence}: no published model fits, give a config of your own"
    return f"{sentence}: {identity.sentence()}, so give another --model"


def _write(
    folder: Path, output: str | Path, model: Imported, candidates: Candidates
) -> None:
    own = _first_stage_config(model.config, candidates)
    try:
        imported_workdir.write(folder, model, own)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(folder), str(output))) from error


def _write_report(folder: Path, result: Report) -> None:
    path = folder / imported_workdir.REPORT
    path.write_text(result.to_json(), encoding="utf-8")


def _first_stage_config(
    config: ConfigDict, candidates: Candidates
) -> ConfigDict | None:
    """The published config of the same first stage."""
    if config.task != "denoising":
        return None

    def fields(config: ConfigDict) -> dict[str, Any]:
        section = config.autoencoder.to_dict()
        return {k: v for k, v in section.items() if k not in ("checkpoint", "remat")}

    configs = (make() for make in candidates.values())
    stages = (c for c in configs if c.task == "autoencoding")
    return next((c for c in stages if fields(c) == fields(config)), None)


def _of_task(task: str, candidates: Candidates) -> ConfigDict:
    configs = (make() for make in candidates.values())
    chosen = next((config for config in configs if config.task == task), None)
    if chosen is None:
        raise ValueError(f"no config of a {task} model is at hand: give --model")
    return chosen


def _with_sections(base: ConfigDict, sections: Mapping[str, Any]) -> ConfigDict:
    """`base` with the sections that a folder describes; parts of `data` are merged."""
    config = base.copy_and_resolve_references()
    with config.unlocked():
        for name, section in sections.items():
            if name in ("data", "latent", "sampler") and name in config:
                config[name].update(section)
            else:
                config[name] = (
                    ConfigDict(section) if isinstance(section, Mapping) else section
                )
    return config
