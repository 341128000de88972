"""A single file in the original code's names: opened, and what it says besides."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ldm_jax.diffusion.schedules import Schedule
from ldm_jax.interop import compvis, matching
from ldm_jax.interop.archive import open_checkpoint
from ldm_jax.interop.compvis_text import split_in_proj
from ldm_jax.lazy_array import read_array

# Betas of two schedules that differ by less are the same, rounded otherwise.
BETA_TOLERANCE = 1e-4
EMA_DECAY, EMA_UPDATES = f"{compvis.EMA}decay", f"{compvis.EMA}num_updates"


@dataclasses.dataclass(frozen=True)
class File:
    """A file in the original code's names, opened and not read.

    Attributes:
      path: where it is.
      format: "torch zip", "torch legacy" or "safetensors".
      tensors: lazy tensors by name; fused projections of OpenCLIP are split.
      step: optimizer steps done, by the file's own word or by its average's; None if
        neither says.
    """

    path: Path
    format: str
    tensors: Mapping[str, Any]
    step: int | None

    @property
    def infos(self) -> matching.Infos:
        """dtype and shape of every tensor."""
        return {
            name: (np.dtype(tensor.dtype), tuple(tensor.shape))
            for name, tensor in self.tensors.items()
        }

    def read(self, name: str) -> np.ndarray:
        """One tensor."""
        return read_array(self.tensors[name])

    def scalar(self, name: str) -> float | None:
        """The value of a tensor with one element; None if it is not in the file."""
        return float(self.read(name).item()) if name in self.tensors else None


def open_file(path: str | Path) -> File:
    """Open a single file; nothing in it is executed.

    Raises:
      FileNotFoundError, ValueError: one sentence: not there, damaged, unsafe, no weights.
    """
    archive = open_checkpoint(path)
    tensors = split_in_proj(archive.tensors.entries)
    step = archive.meta.step
    if step is None and EMA_UPDATES in tensors:
        updates = int(read_array(tensors[EMA_UPDATES]).item())
        step = updates if updates > 0 else None
    return File(Path(path), archive.format, tensors, step)


def average_details(file: File) -> dict[str, Any]:
    """State of the averaged parameters, for a report; `{}` if there are none."""
    names = {"EMA decay": EMA_DECAY, "EMA updates": EMA_UPDATES}
    values = {label: file.scalar(name) for label, name in names.items()}
    return {label: value for label, value in values.items() if value is not None}


def latent_scale(file: File, config: ConfigDict) -> tuple[float, list[str]]:
    """(the scale to use, warnings): the file's own goes before the config's."""
    stored, given = file.scalar("scale_factor"), float(config.latent.scale)
    if stored is None:
        if not config.latent.scale_by_std:
            return given, []
        sentence = (
            f"the file has no scale_factor, which the model measured in training: {given} "
            "is taken, which is probably wrong"
        )
        return given, [sentence]
    if config.latent.scale_by_std or np.isclose(stored, given, rtol=1e-6):
        return stored, []
    sentence = (
        f"scale_factor is {stored:.6g} in the file and {given:.6g} in the config: the "
        "file's is kept"
    )
    return stored, [sentence]


def schedule_warnings(file: File, schedule: Schedule) -> list[str]:
    """Whether the file's betas are those of `schedule`, as sentences: none if they are."""
    if "betas" not in file.tensors:
        return []
    theirs = file.read("betas").astype(np.float64)
    ours = schedule.exact_betas if schedule.power == 2 else np.zeros(0)
    if theirs.shape == ours.shape and np.allclose(
        theirs, ours, rtol=BETA_TOLERANCE, atol=0
    ):
        return []
    sentence = (
        f"the file's noise schedule ({theirs.size} betas, {theirs[0]:.6g} to "
        f"{theirs[-1]:.6g}) is not that of config.diffusion.schedule: it was trained "
        "with another one, so change the config or sampling will be wrong"
    )
    return [sentence]


def nonfinite_warnings(names: list[str]) -> list[str]:
    """A sentence that names tensors; none without any."""
    if not names:
        return []
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    sentence = (
        f"{len(names)} tensor(s) hold values that are no finite number: "
        f"{', '.join(names[:5])}{more}"
    )
    return [sentence]
