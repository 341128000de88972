"""Writing the workdir of a model that was not trained here.

`config.json`, `checkpoints/<step>/` (parameters, and averaged ones if there are any),
`autoencoder/` (a workdir of its own: the first stage), `tokenizer/` if the source had
one, and `imported.json`, the report.
"""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ldm_jax import config as config_lib
from ldm_jax.interop.archive import count_nonfinite
from ldm_jax.lazy_array import LazyArray, read_array
from ldm_jax.training import streaming

PyTree = Any

REPORT = "imported.json"
FIRST_STAGE = "autoencoder"
TOKENIZER = "tokenizer"


@dataclasses.dataclass(frozen=True)
class Imported:
    """A model in our terms, its arrays still in their files.

    Attributes:
      config: of its run.
      items: trees of lazy arrays by item of a checkpoint: "params", "ema", ...
      first_stage: parameters of the frozen first stage; None if the model is one.
      step: optimizer steps done.
      tokenizer: a folder to keep beside it.
    """

    config: ConfigDict
    items: Mapping[str, PyTree]
    first_stage: PyTree = None
    step: int = 0
    tokenizer: Path | None = None


def write(folder: Path, model: Imported, first_stage_config: ConfigDict | None) -> None:
    """Write everything but the report; arrays stream.

    Args:
      folder: exists and is empty.
      model: what to write.
      first_stage_config: the config of the first stage's own run, if it is known.

    Raises:
      CheckpointError: if the disk is too full.
    """
    config = model.config.copy_and_resolve_references()
    if model.first_stage is not None:
        own = first_stage_config or _minimal_config(config)
        _write_run(
            folder / FIRST_STAGE, own, {"params": {FIRST_STAGE: model.first_stage}}, 0
        )
        config.autoencoder.checkpoint = FIRST_STAGE
    if model.tokenizer is not None:
        shutil.copytree(model.tokenizer, folder / TOKENIZER)
    _write_run(folder, config, model.items, model.step)


def watched(tree: PyTree, prefix: str, nonfinite: list[str]) -> PyTree:
    """The same lazy arrays; reading one that is not finite adds its name to a list."""

    def leaf(path: tuple, value: Any) -> LazyArray:
        name = f"{prefix}/{jax.tree_util.keystr(path, simple=True, separator='/')}"

        def read() -> np.ndarray:
            array = read_array(value)
            if count_nonfinite(array):
                nonfinite.append(name)
            return array

        return LazyArray(tuple(value.shape), np.dtype(value.dtype), read)

    return jax.tree_util.tree_map_with_path(leaf, tree)


@contextmanager
def new_folder(output: str | Path) -> Iterator[Path]:
    """A folder to fill that becomes `output` when all went well, and vanishes if not.

    Raises:
      ValueError: if `output` is there and not empty.
    """
    output = Path(output)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(
            f"{output} is there already: give a new folder as --output, or remove it"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        part.mkdir()
        yield part
        if output.exists():
            output.rmdir()
        part.rename(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def report_of(workdir: Path) -> dict[str, Any]:
    """The report of an import, as JSON has it; `{}` for a workdir of train.py."""
    path = workdir / REPORT
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _write_run(
    folder: Path, config: ConfigDict, items: Mapping[str, PyTree], step: int
) -> None:
    config_lib.save(config, folder / "config.json")
    streaming.write_checkpoint(folder, step, items, {"class_names": []})


def _minimal_config(config: ConfigDict) -> ConfigDict:
    """Enough to use a first stage: the model's own config, without what is not its."""
    own = ConfigDict({"task": "autoencoding"})
    for name in ("autoencoder", "data", "optimizer", "train", "mesh"):
        own[name] = config[name]
    own.autoencoder.checkpoint = ""
    own.train.ema_decay = 0.0
    return own.copy_and_resolve_references()
