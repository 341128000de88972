"""A released model: one folder with all that drawing takes, small enough to share.

`config.json`, `model.safetensors` (averaged parameters in our own names, in half precision
if wanted, beside `latent_scale` and, in the header, the step and the classes' names) and
`tokenizer/` where the model has a vocabulary of its own. No optimizer's state: training goes
on from a workdir. `conditioner.checkpoint`, and `autoencoder.checkpoint`, may name such a
folder.
"""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ldm_jax import config as config_lib
from ldm_jax import trees

PyTree = Any

WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer"
LATENT_SCALE = "latent_scale"


@dataclasses.dataclass(frozen=True)
class Released:
    """What a released folder holds.

    Attributes:
      params: by group ("autoencoder", "backbone", "conditioner"), float32 on the host.
      latent_scale: see `LatentDiffusion`; None beside a first stage or a text encoder.
      step: of the training.
      class_names: of a class-conditional model.
    """

    params: Mapping[str, PyTree]
    latent_scale: np.ndarray | None
    step: int
    class_names: tuple[str, ...]


def is_released(folder: str | Path) -> bool:
    """Whether `folder` holds a released model rather than a run."""
    return (Path(folder) / WEIGHTS).is_file()


def read(folder: str | Path, groups: tuple[str, ...] | None = None) -> Released:
    """Read a released model.

    Args:
      groups: the ones to read, of those there are; None for all.

    Raises:
      FileNotFoundError, ValueError: missing or damaged.
    """
    path = Path(folder) / WEIGHTS
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            names = [n for n in file.keys() if _is_wanted(n, groups)]  # noqa: SIM118
            flat = {n: file.get_tensor(n).astype(np.float32) for n in names}
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read ({error}): fetch the folder again"
        ) from error
    scale = flat.pop(LATENT_SCALE, None)
    return Released(
        params=trees.unflatten(flat),
        latent_scale=scale,
        step=int(header.get("step", 0)),
        class_names=tuple(json.loads(header.get("class_names", "[]"))),
    )


def write(
    folder: str | Path,
    config: ConfigDict,
    model: Released,
    *,
    tokenizer: Path | None = None,
    dtype: str = "float16",
) -> None:
    """Write a released model; a file that is there is replaced, others stay.

    Args:
      config: of the model; written as it is.
      model: what to store.
      tokenizer: a folder to copy beside it.
      dtype: of the parameters; "float16" and "bfloat16" halve the size and round.

    Raises:
      ValueError: if a parameter is too large for `dtype`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat = {
        name: _rounded(name, np.asarray(leaf), jnp.dtype(dtype))
        for name, leaf in trees.flatten(dict(model.params)).items()
    }
    if model.latent_scale is not None:
        flat[LATENT_SCALE] = np.asarray(model.latent_scale, np.float32)
    header = {"step": str(model.step), "class_names": json.dumps(model.class_names)}
    partial = folder / f"{WEIGHTS}.partial"
    save_file(flat, partial, metadata=header)
    if tokenizer is not None:
        shutil.copytree(tokenizer, folder / TOKENIZER, dirs_exist_ok=True)
    config_lib.save(config, folder / "config.json")
    os.replace(partial, folder / WEIGHTS)


def _is_wanted(name: str, groups: tuple[str, ...] | None) -> bool:
    return groups is None or name.split("/")[0] in groups


def _rounded(name: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.floating):
        return array
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(array.astype(dtype))
    if not np.isfinite(rounded.astype(np.float32)).all():
        raise ValueError(
            f"{name} does not fit into {dtype}: release the model in bfloat16 or float32"
        )
    return rounded
