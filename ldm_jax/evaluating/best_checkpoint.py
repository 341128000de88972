"""The best checkpoint of a run by a metric, as a workdir of its own: workdir/best/."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOptionalSubscript=false

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from ldm_jax import config as config_lib
from ldm_jax.training import checkpoints
from ldm_jax.training.state import TrainState

logger = logging.getLogger(__name__)

# Of the others, the smaller value is the better.
HIGHER_IS_BETTER = ("is", "ris", "precision", "recall", "density", "coverage")


class BestCheckpoint:
    """Keeps the parameters of the best step in `workdir/best/`, which can be sampled from.

    It holds no optimizer state, and knows its value from one start of the run to the
    next by best.json.
    """

    def __init__(self, workdir: Path, config: ConfigDict):
        """The best so far is what `workdir/best/best.json` says."""
        self._workdir, self._config = workdir, config
        self.folder = workdir / "best"

    def offer(
        self,
        state: TrainState,
        name: str,
        value: float,
        *,
        class_names: Sequence[str] = (),
    ) -> bool:
        """Keep this state if its metric `name` is the best so far; every process calls.

        Returns:
          Whether it was kept; a disk too full for it is a warning.
        """
        step = int(state.step)
        best = self._known(name, step)
        is_better = best is None or (
            value > best if _base(name) in HIGHER_IS_BETTER else value < best
        )
        # One answer for all processes, which write together.
        is_better = bool(multihost_utils.broadcast_one_to_all(np.array(is_better)))
        if not is_better:
            return False
        record = {"metric": name, "value": value, "step": step}
        try:
            self._write(state, class_names, record)
        except checkpoints.DiskFullError as error:
            logger.warning("WARNING: the best so far is not kept: %s", error)
            return False
        return True

    def _known(self, name: str, step: int) -> float | None:
        """The best value before `step`: a later one is of a run that was taken back."""
        path = self.folder / "best.json"
        if not path.is_file():
            return None
        best: dict[str, Any] = json.loads(path.read_text())
        if best["metric"] != name or best["step"] > step:
            return None
        return best["value"]

    def _write(
        self, state: TrainState, class_names: Sequence[str], record: dict[str, Any]
    ) -> None:
        """Beside the former best, which stays until this one is complete."""
        partial = self.folder.with_name("best.partial")
        if jax.process_index() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        multihost_utils.sync_global_devices("no half-written best checkpoint is left")
        try:
            with checkpoints.open_checkpoints(partial, max_to_keep=1) as manager:
                light = state.replace(opt_state={})  # pyright: ignore
                checkpoints.save(manager, light, {"class_names": list(class_names)})
                checkpoints.wait(manager)
            if jax.process_index() == 0:
                config_lib.save(self._portable(), partial / "config.json")
                (partial / "best.json").write_text(json.dumps(record) + "\n")
                shutil.rmtree(self.folder, ignore_errors=True)
                partial.rename(self.folder)
        finally:
            if jax.process_index() == 0:
                shutil.rmtree(partial, ignore_errors=True)

    def _portable(self) -> ConfigDict:
        """The config, with what lies in the run's folder found from within best/."""
        config = self._config.copy_and_resolve_references()
        for section, field in (
            ("autoencoder", "checkpoint"),
            ("conditioner", "checkpoint"),
            ("tokenizer", "path"),
            ("data", "neighbors"),
        ):
            path = config.get(section, {}).get(field, "")
            is_relative = path and not Path(path).is_absolute()
            if is_relative and (self._workdir / path).exists():
                config[section][field] = f"../{path}"
        return config


def _base(name: str) -> str:
    """`precision` of `precision_efficientnet_lite0`."""
    return name.partition("_")[0]
