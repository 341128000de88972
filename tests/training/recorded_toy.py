"""The toy of toy.py under the flight recorder, with batches poisoned."""

import functools
import json

import jax
import numpy as np
import toy

from ldm_jax.training import diagnosis, flight_recorder, hooks, sharding
from ldm_jax.training.guarded_step import GuardedStep, guard, new_tally
from ldm_jax.training.metrics import JsonlWriter
from ldm_jax.training.recent_batches import RecentBatches
from ldm_jax.training.step import step_with_gradients
from ldm_jax.training.throughput import Throughput

BAD = 3


def log_rows(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["step"]: row for row in rows}


def report(workdir, step):
    folder = flight_recorder.folder_of(workdir, step)
    return json.loads((folder / "report.json").read_text())


GUARDED = {}


def guarded_toy(mesh):
    """The toy's guarded step, compiled once for each mesh."""
    if mesh not in GUARDED:
        _, shardings = toy.layout(mesh)
        whole = sharding.replicated(mesh)
        out = (shardings, whole, whole)
        jitted = jax.jit(guard(toy.step_fn), donate_argnums=0, out_shardings=out)
        GUARDED[mesh] = shardings, jitted, jax.device_put(toy.FROZEN, whole)
    return GUARDED[mesh]


def toy_run(
    workdir, mesh, bad, *, policy="skip", num_steps=6, first_step=0, start=None
):
    """Train the toy with batches of some steps poisoned; the last state."""
    shardings, jitted, frozen = guarded_toy(mesh)
    place, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)

    class Batches:
        def __init__(self):
            self.batches = toy.host_batches(first_step)
            self.step = first_step

        def __next__(self):
            self.step += 1
            batch = next(self.batches)
            if self.step in bad:
                batch["x"][3, 1] = np.nan
            return batch

    def diagnose(state, batch):
        gradients = functools.partial(step_with_gradients, **toy.step_fn.keywords)
        look = jax.jit(functools.partial(diagnosis.diagnose, gradients))
        batch = sharding.put_batch(batch, place)
        return diagnosis.read(look(state, frozen, batch))

    recorder = flight_recorder.Recorder(
        workdir=workdir,
        policy=policy,
        max_in_a_row=3,
        about={"seed": 0, "num_devices": mesh.size},
        config_json="{}",
        fields=list,
        rows=lambda batch: np.arange(toy.BATCH_SIZE),
        diagnose=diagnose,
    )
    tally = jax.device_put(new_tally(recorder.num_skipped(first_step)), whole)
    step = GuardedStep(
        *(jitted, frozen, tally),
        first_step=first_step,
        shows_skipped=policy == "skip",
    )
    if start is None:
        start = jax.jit(toy.create, out_shardings=shardings)()
    writer = JsonlWriter(workdir / "metrics.jsonl", first_step=first_step)
    states = {}

    def keep(step, state, metrics):
        states[step] = jax.device_get(state)

    end = flight_recorder.run(
        *(start, RecentBatches(Batches(), first_step=first_step)),
        lambda batch: sharding.put_batch(batch, place),
        step,
        [hooks.log([writer], Throughput(toy.BATCH_SIZE)), keep],
        num_steps,
        recorder,
        should_stop=lambda step: False,
    )
    return end, states


MESHES = {"one device": (1, 1), "data": (8, 1), "fsdp": (2, 4)}


def mesh_of(name):
    data, fsdp = MESHES[name]
    return sharding.make_mesh(data, fsdp, devices=jax.devices()[: data * fsdp])
