"""Steps that are not finite: kept, repeated bit for bit, stopped at or left out."""

import functools
import json
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from configs.tiny import autoencoder, ldm
from ldm_jax import run as runs
from ldm_jax.replay import replay
from ldm_jax.training import (
    checkpoints,
    diagnosis,
    flight_recorder,
    hooks,
    loop,
    sharding,
)
from ldm_jax.training.guarded_step import GuardedStep, guard, new_tally
from ldm_jax.training.metrics import DivergedError, JsonlWriter
from ldm_jax.training.recent_batches import RecentBatches
from ldm_jax.training.step import step_with_gradients
from ldm_jax.training.throughput import Throughput
from ldm_jax.trees import flatten

BAD = 3


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory) -> Path:
    """A tiny KL autoencoder, hardly trained."""
    workdir = tmp_path_factory.mktemp("first_stage")
    config = autoencoder.get_config("kl")
    config.train.num_steps = 1
    runs.train(config, workdir, devices=jax.devices()[:1])
    return workdir


def config_of(stage, first_stage, **train):
    if stage == "denoiser":
        config = ldm.get_config("kl")
        config.autoencoder.checkpoint = str(first_stage)
    else:
        config = autoencoder.get_config(stage)
    config.train.update({"num_steps": 5, **train})
    return config


class Poisoned:
    """A loader one of whose pictures is not finite at some steps."""

    def __init__(self, batches, first_step, bad, value):
        self._batches, self._step = batches, first_step
        self._bad, self._value = bad, value

    def __next__(self):
        self._step += 1
        batch = dict(next(self._batches))
        if self._step in self._bad:
            batch["image"] = batch["image"].copy()
            batch["image"][2, 5, 5, 0] = self._value
        return batch

    def close(self):
        self._batches.close()


@pytest.fixture
def poison(monkeypatch):
    """Poison the batches of some steps, as a transform with a mistake would."""
    original = runs.loader

    def poison(*bad, value=np.nan):
        def loader(run, source, transform, *, start_step=0):
            batches = original(run, source, transform, start_step=start_step)
            return Poisoned(batches, start_step, bad, value)

        monkeypatch.setattr(runs, "loader", loader)

    return poison


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def report(workdir, step):
    folder = flight_recorder.folder_of(workdir, step)
    return json.loads((folder / "report.json").read_text())


@pytest.mark.slow
# The discriminator of the VQ stage takes part from the third step on.
@pytest.mark.parametrize(
    ("stage", "options", "mesh", "value"),
    [
        ("denoiser", {"grad_accumulation": 1}, (2, 4), np.inf),
        ("vq", {"grad_accumulation": 2, "log_every": 50}, (4, 1), np.nan),
    ],
)
def test_poisoned_picture_stops_the_run_and_is_replayed_bit_for_bit(
    stage, options, mesh, value, first_stage, tmp_path, monkeypatch, poison
):
    monkeypatch.setattr(sharding, "MIN_FSDP_ELEMENTS", 64)
    poison(BAD, value=value)
    config = config_of(stage, first_stage, **options)
    config.mesh.update({"data": mesh[0], "fsdp": mesh[1]})
    devices = jax.devices()[: mesh[0] * mesh[1]]
    with pytest.raises(DivergedError, match=f"at step {BAD}") as caught:
        runs.train(config, tmp_path, devices=devices)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert f"tools/replay_step.py --workdir={tmp_path} --step={BAD}" in sentence
    assert max(checkpoints.all_steps(tmp_path)) < BAD

    found = replay(tmp_path, devices=devices)
    assert found.step == BAD and found.differs == {}
    assert "nan" in set(found.metrics.values())
    assert found.diagnosis.not_finite["batch"] == ("image",)
    assert found.diagnosis.not_finite["parameters"] == ()
    assert found.diagnosis.not_finite["gradients"]
    assert "conv_in (" in found.layers[0] and "ncoder/" in found.layers[0]
    kept = report(tmp_path, BAD)
    assert kept["not_finite"]["batch"] == ["image"] and kept["seed"] == 0
    assert all(float(x) > 0 for x in kept["norms"]["parameters"].values())
    batch = np.load(flight_recorder.folder_of(tmp_path, BAD) / "batch_0.npz")
    assert not np.isfinite(batch["image"][2, 5, 5, 0]) and "index" in batch


@pytest.mark.slow
def test_poisoned_parameter_is_named(first_stage, tmp_path, monkeypatch):
    original = runs._initial_state

    def poisoned(*arguments):
        state, shardings = original(*arguments)
        kernel = state.params["backbone"]["conv_out"]["kernel"]
        state.params["backbone"]["conv_out"]["kernel"] = kernel.at[0, 0, 0, 0].set(
            jnp.inf
        )
        return state, shardings

    monkeypatch.setattr(runs, "_initial_state", poisoned)
    config = config_of("denoiser", first_stage, log_every=50)
    one = jax.devices()[:1]
    with pytest.raises(DivergedError, match="at step 1"):
        runs.train(config, tmp_path, devices=one)
    found = replay(tmp_path, 1, devices=one)
    assert found.differs == {}
    assert found.diagnosis.not_finite["parameters"] == ("backbone/conv_out/kernel",)
    assert "conv_out (" in found.layers[0]
    assert "parameters: backbone/conv_out/kernel" in found.describe()


@pytest.mark.slow
def test_skipped_steps_leave_no_trace_but_their_records(
    first_stage, tmp_path, poison, caplog
):
    poison(2, 4)
    one = jax.devices()[:1]
    config = config_of("denoiser", first_stage, on_nonfinite="skip", num_steps=6)
    config.train.checkpoint_every = 1
    config.train.keep_checkpoints = 9
    logging.getLogger("ldm_jax").propagate = True
    runs.train(config, tmp_path, devices=one)
    assert [row["skipped_steps"] for row in rows(tmp_path)] == [0, 1, 1, 2, 2, 2]
    assert [row["loss"] is None for row in rows(tmp_path)] == [
        *(False, True, False, True, False, False)
    ]
    assert flight_recorder.recorded_steps(tmp_path) == [2, 4]
    assert "step 4 was left out" in caplog.text

    def item(step, name):
        return flatten(checkpoints.load_item(tmp_path, name, step=step))

    for name in ("params", "opt_state", "ema"):
        before, held, after = (item(step, name) for step in (3, 4, 5))
        for leaf, value in held.items():
            np.testing.assert_array_equal(value, before[leaf], err_msg=leaf)
        assert any(np.any(after[leaf] != value) for leaf, value in held.items())
    assert replay(tmp_path, 2, devices=one).differs == {}
    assert replay(tmp_path, 4, devices=one).differs == {}


@pytest.mark.slow
def test_run_that_skips_resumes_bit_for_bit(first_stage, tmp_path, poison):
    poison(2, 4, 5)
    one = jax.devices()[:1]
    for name, lengths in {"whole": (6,), "parts": (4, 6)}.items():
        for num_steps in lengths:
            config = config_of(
                *("denoiser", first_stage), on_nonfinite="skip", num_steps=num_steps
            )
            runs.train(config, tmp_path / name, devices=one)
    whole, parts = rows(tmp_path / "whole"), rows(tmp_path / "parts")
    for ours, theirs in zip(parts, whole, strict=True):
        for key in ("step", "loss", "skipped_steps", "denoiser/grad_norm"):
            assert ours[key] == theirs[key]


def test_missing_record_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="no record of a step") as caught:
        replay(tmp_path, 7)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_old_configs_stop(first_stage, tmp_path, poison):
    poison(2)
    config = config_of("denoiser", first_stage)
    with config.unlocked():
        del config.train.on_nonfinite, config.train.max_skipped_in_a_row
    with pytest.raises(DivergedError, match="at step 2"):
        runs.train(config, tmp_path, devices=jax.devices()[:1])


class Watched:
    """A scalar on a device that notes when the host asks for it."""

    def __init__(self, value, name, events):
        self._value, self._name, self._events = value, name, events

    def __array__(self, dtype=None, copy=None):
        self._events.append(("read", self._name))
        return np.asarray(self._value)

    def __float__(self):
        return float(np.asarray(self))


def toy_step(events):
    guarded = jax.jit(guard(toy.step_fn), donate_argnums=0)
    numbers = iter(range(1, 99))

    def compiled(state, frozen, batch, tally):
        state, metrics, tally = guarded(state, frozen, batch, tally)
        step = next(numbers)
        events.append(("dispatched", step))
        return state, {k: Watched(v, step, events) for k, v in metrics.items()}, tally

    return GuardedStep(
        *(compiled, toy.FROZEN, jax.device_put(new_tally())),
        first_step=0,
        shows_skipped=False,
    )


def test_healthy_steps_are_read_only_once_the_next_is_dispatched():
    events = []
    step = toy_step(events)
    batches = (sharding_free(toy.host_batch(i)) for i in range(1, 7))
    loop.run(toy.new_state(), batches, step, [], 6)
    order = list(dict.fromkeys(events))
    expected = [("dispatched", 1)]
    for number in range(2, 7):
        expected += [("dispatched", number), ("read", number - 1)]
    assert order == [*expected, ("read", 6)]


def sharding_free(batch):
    return {name: jnp.asarray(x) for name, x in batch.items()}


def log_rows(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["step"]: row for row in rows}


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


@pytest.mark.parametrize("name", MESHES)
def test_record_has_all_that_the_step_needs(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "MIN_FSDP_ELEMENTS", 64)
    mesh = mesh_of(name)
    with pytest.raises(DivergedError, match=f"is nan at step {BAD}.*--step={BAD}$"):
        toy_run(tmp_path, mesh, (BAD,), policy="stop")
    assert BAD not in log_rows(tmp_path / "metrics.jsonl")
    kept = report(tmp_path, BAD)
    assert kept["not_finite"]["batch"] == ["x"]
    assert "generator/generator/wide/kernel" in kept["not_finite"]["gradients"]
    assert "parameters" not in kept["not_finite"]
    assert float(kept["norms"]["parameters"]["generator/wide"]) > 0
    folder = flight_recorder.folder_of(tmp_path, BAD)
    batch = dict(np.load(folder / "batch_0.npz"))
    expected = toy.host_batch(BAD)
    expected["x"][3, 1] = np.nan
    np.testing.assert_array_equal(batch["x"], expected["x"])
    target, _ = toy.layout(mesh)
    with checkpoints.open_checkpoints(folder) as manager:
        state, _ = checkpoints.restore_state(manager, target)
    assert int(state.step) == BAD - 1
    _, jitted, frozen = guarded_toy(mesh)
    batch = sharding.put_batch(
        {name: batch[name] for name in kept["fields"]}, sharding.batch_sharding(mesh)
    )
    tally = jax.device_put(new_tally(), sharding.replicated(mesh))
    _, metrics, _ = jitted(state, frozen, batch, tally)
    for metric, recorded in kept["metrics"].items():
        assert flight_recorder.number(metrics[metric]) == recorded, metric


@pytest.mark.parametrize("name", MESHES)
def test_skipped_steps_change_nothing_but_the_count(
    name, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(sharding, "MIN_FSDP_ELEMENTS", 64)
    logging.getLogger("ldm_jax").propagate = True
    _, states = toy_run(tmp_path, mesh_of(name), (2, 4, 6))
    found = log_rows(tmp_path / "metrics.jsonl")
    assert [found[step]["skipped_steps"] for step in found] == [0, 1, 1, 2, 2, 3]
    lost = [step for step, row in found.items() if row["generator/loss"] is None]
    assert lost == [2, 4, 6] == flight_recorder.recorded_steps(tmp_path)
    assert "step 6 was left out" in caplog.text
    assert [int(state.step) for state in states.values()] == [1, 2, 3, 4, 5, 6]
    for item in ("params", "ema", "opt_state", "collections"):
        tree = {step: flatten(getattr(state, item)) for step, state in states.items()}
        for leaf, value in tree[4].items():
            np.testing.assert_array_equal(value, tree[3][leaf], err_msg=leaf)
    moved = flatten(states[5].params)
    assert any(
        np.any(v != moved[leaf]) for leaf, v in flatten(states[4].params).items()
    )


def test_run_that_skips_goes_on_where_it_was(tmp_path):
    mesh = mesh_of("one device")
    whole, _ = toy_run(tmp_path / "whole", mesh, (2, 4, 5))
    whole = jax.device_get(whole)
    half, _ = toy_run(tmp_path / "parts", mesh, (2, 4, 5), num_steps=4)
    parts, _ = toy_run(tmp_path / "parts", mesh, (2, 4, 5), first_step=4, start=half)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(parts), whole)
    rows = [log_rows(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    for ours, theirs in zip(*(r.values() for r in rows), strict=True):
        for key in ("step", "loss", "skipped_steps", "critic/grad_norm"):
            assert ours[key] == theirs[key]


def test_too_many_in_a_row_stop_the_run(tmp_path):
    with pytest.raises(DivergedError, match="at step 4.*3 steps in a row") as caught:
        toy_run(tmp_path, mesh_of("one device"), (2, 3, 4))
    assert "\n" not in str(caught.value)
    assert flight_recorder.recorded_steps(tmp_path) == [2, 3, 4]
    # All three started from the same state.
    folders = [flight_recorder.folder_of(tmp_path, step) for step in (2, 3, 4)]
    assert [(f / "checkpoints").exists() for f in folders] == [True, False, False]
    assert report(tmp_path, 4)["state"] == "step_2"


def test_only_the_newest_states_are_kept(tmp_path):
    toy_run(tmp_path, mesh_of("one device"), (1, 3, 5, 7, 9), num_steps=10)
    kept = [
        step
        for step in flight_recorder.recorded_steps(tmp_path)
        if (flight_recorder.folder_of(tmp_path, step) / "checkpoints").exists()
    ]
    assert kept == [5, 7, 9] and len(kept) == flight_recorder.MAX_STATES


@pytest.mark.parametrize("objective", ["generator", "critic"])
def test_either_objective_holds_the_whole_state(objective):
    """The generator's update waits for the critic's gradient."""
    state = toy.new_state()
    before = jax.device_get(state)
    step = jax.jit(guard(toy.step_fn))
    batch = sharding_free(toy.host_batch(1))
    good, _, tally = step(state, toy.FROZEN, batch, new_tally())
    assert int(tally.skipped) == 0
    plain, _ = jax.jit(toy.step_fn)(state, toy.FROZEN, batch)
    for name, value in flatten(good).items():
        np.testing.assert_allclose(value, flatten(plain)[name], rtol=1e-6, atol=1e-7)
    if objective == "generator":
        bad = {
            **batch,
            "y": batch["y"].at[3, 1].set(jnp.nan),
        }  # the critic sees y[:, 0]
    else:
        kernel = state.params["critic"]["score"]["kernel"]
        state.params["critic"]["score"]["kernel"] = kernel.at[0].set(jnp.inf)
        before, bad = jax.device_get(state), batch
    held, metrics, tally = step(state, toy.FROZEN, bad, new_tally())
    assert not np.isfinite(metrics[f"{objective}/loss"])
    for name in ("params", "ema", "opt_state", "collections"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(held, name), getattr(before, name)
        )
    assert int(held.step) == 1 and int(tally.skipped) == 1
    # Nothing moves until the host has taken notice.
    again, _, tally = step(held, toy.FROZEN, batch, tally)
    jax.tree.map(np.testing.assert_array_equal, again.params, before.params)
    assert int(tally.skipped) == 1


def test_recent_batches_come_again():
    class Numbers:
        def __init__(self):
            self.numbers, self.is_closed = iter(range(11, 99)), False

        def __next__(self):
            return {"x": next(self.numbers)}

        def close(self):
            self.is_closed = True

    numbers = Numbers()
    recent = RecentBatches(numbers, first_step=10)
    assert [next(recent)["x"] for _ in range(4)] == [11, 12, 13, 14]
    recent.rewind(12)
    assert [next(recent)["x"] for _ in range(3)] == [13, 14, 15]
    assert recent.get(15) == {"x": 15} and recent.get(12) is None
    recent.close()
    assert numbers.is_closed
