"""What a file or folder of weights is, without writing anything."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm_jax.conversion import identifying
from ldm_jax.conversion.checkpoint_file import (
    File,
    average_details,
    nonfinite_warnings,
    open_file,
)
from ldm_jax.conversion.identifying import Candidates
from ldm_jax.interop import diffusers, matching, report
from ldm_jax.interop.archive import count_nonfinite
from ldm_jax.interop.diffusers_check import check_sections
from ldm_jax.interop.report import Report

SMALL_BYTES = 2**28


def is_diffusers(path: str | Path) -> bool:
    """Whether a path is a folder in diffusers' layout."""
    names = (diffusers.INDEX, diffusers.CONFIG)
    return any((Path(path) / name).is_file() for name in names)


def inspect(
    path: str | Path, candidates: Candidates, *, check_values: bool = False
) -> Report:
    """What a file or a diffusers folder is; nothing is written.

    Args:
      path: of the file or folder.
      candidates: configs of published models by name.
      check_values: whether to read every tensor of a large file and look for NaN; a small
        one is always read.

    Raises:
      FileNotFoundError, ValueError: one sentence: not there, damaged, unsafe, no weights.
    """
    if is_diffusers(path):
        return _inspect_diffusers(Path(path), candidates)
    file = open_file(path)
    identity = identifying.identify(file.infos, candidates)
    warnings = []
    if not identity.models and identity.nearest:
        warnings.append(f"no published model fits: {identity.sentence()}")
    details = average_details(file)
    num_bytes = report.num_bytes(file.infos)
    if check_values or num_bytes < SMALL_BYTES:
        broken = [name for name in file.tensors if count_nonfinite(file.read(name))]
        warnings += nonfinite_warnings(broken)
    else:
        details["NaN or infinity"] = "not looked for: --check_values reads all values"
    return file_report(file, identity.models, identity.match, warnings, details)


def file_report(
    file: File,
    models: tuple[str, ...],
    found: matching.Match,
    warnings: Sequence[str],
    details: Mapping[str, Any],
) -> Report:
    """The report of a file in the original code's names."""
    return Report(
        source=str(file.path),
        format=file.format,
        models=models,
        step=file.step,
        warnings=tuple(warnings),
        details=details,
        **report.describe(file.infos),
        **report.compare(found),
    )


def diffusers_report(
    path: str | Path,
    found: diffusers.Imported,
    models: tuple[str, ...],
    notes: tuple[str, ...],
    details: Mapping[str, Any],
) -> Report:
    """The report of a diffusers folder."""
    whole = {
        f"{component}.{name}": info
        for component, infos in found.tensors.items()
        for name, info in infos.items()
    }
    sizes = {
        component or "network": report.num_elements(infos)
        for component, infos in found.tensors.items()
    }
    return Report(
        source=str(path),
        format="diffusers",
        models=models,
        warnings=notes,
        details=details,
        **{**report.describe(whole), "sizes": sizes},
    )


def diffusers_models(
    found: diffusers.Imported, candidates: Candidates
) -> tuple[str, ...]:
    """Names of the candidates that compute what a folder's own configs describe."""
    models = []
    for name, make in candidates.items():
        config = make()
        if config.task != found.sections.get("task"):
            continue
        try:
            check_sections(found.sections, config.to_dict(), name)
        except (KeyError, ValueError):
            continue
        models.append(name)
    return tuple(models)


def _inspect_diffusers(path: Path, candidates: Candidates) -> Report:
    found = diffusers.read_folder(path)
    models = diffusers_models(found, candidates)
    return diffusers_report(path, found, models, found.report, {})
