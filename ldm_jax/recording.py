"""The flight recorder of a run: what a step that is not finite leaves behind."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from ml_collections import ConfigDict

from ldm_jax import build
from ldm_jax.nn.jit import jit
from ldm_jax.run_data import Run
from ldm_jax.run_step import gradients_fn
from ldm_jax.training import diagnosis, sharding
from ldm_jax.training.flight_recorder import Recorder
from ldm_jax.training.state import TrainState

PyTree = Any

# Of runs from before these fields.
POLICY, MAX_IN_A_ROW = "stop", 10


def make_recorder(run: Run) -> Recorder:
    """The recorder that `config.train.on_nonfinite` asks for."""
    train = run.config.train
    diagnose = diagnose_fn(run.config, run.experiment, run.key, run.mesh)
    return Recorder(
        workdir=run.workdir,
        policy=train.get("on_nonfinite", POLICY),
        max_in_a_row=train.get("max_skipped_in_a_row", MAX_IN_A_ROW),
        about={"seed": train.seed, "num_devices": run.mesh.size},
        config_json=run.config.to_json_best_effort(indent=2) + "\n",
        fields=lambda batch: list(run.computed(batch)),
        rows=lambda batch: run.rows(train.batch_size),
        diagnose=lambda state, batch: diagnose(state, run.frozen, run.put(batch)),
    )


def diagnose_fn(
    config: ConfigDict,
    experiment: build.Experiment,
    key: jax.Array,
    mesh: jax.sharding.Mesh,
) -> Callable[[TrainState, PyTree, Mapping], diagnosis.Diagnosis]:
    """`(state, frozen, batch on the devices) -> Diagnosis`; compiles when called."""
    look = partial(diagnosis.diagnose, gradients_fn(config, experiment, key))

    def diagnose(
        state: TrainState, frozen: PyTree, batch: Mapping
    ) -> diagnosis.Diagnosis:
        jitted = jit(
            sharding.on_mesh(look, mesh), out_shardings=sharding.replicated(mesh)
        )
        return diagnosis.read(jitted(state, frozen, batch))

    return diagnose
