"""Whole runs with steps that are not finite: recorded, replayed bit for bit, left out.

Minutes; the same in miniature is in test_flight_recorder.py.
"""

import json
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recorded_toy import BAD, report

from configs.tiny import autoencoder, ldm
from ldm_jax import run as runs
from ldm_jax.replay import replay
from ldm_jax.training import checkpoints, flight_recorder, sharding
from ldm_jax.training.metrics import DivergedError
from ldm_jax.trees import flatten

pytestmark = pytest.mark.slow


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


def test_old_configs_stop(first_stage, tmp_path, poison):
    poison(2)
    config = config_of("denoiser", first_stage)
    with config.unlocked():
        del config.train.on_nonfinite, config.train.max_skipped_in_a_row
    with pytest.raises(DivergedError, match="at step 2"):
        runs.train(config, tmp_path, devices=jax.devices()[:1])
