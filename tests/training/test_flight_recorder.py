"""Steps of the toy that are not finite: kept, stopped at or left out."""

import logging

import jax
import numpy as np
import pytest
import toy
from recorded_toy import BAD, MESHES, guarded_toy, log_rows, mesh_of, report, toy_run

from ldm_jax.replay import replay
from ldm_jax.training import checkpoints, flight_recorder, sharding
from ldm_jax.training.guarded_step import new_tally
from ldm_jax.training.metrics import DivergedError
from ldm_jax.trees import flatten


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


def test_missing_record_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="no record of a step") as caught:
        replay(tmp_path, 7)
    assert "\n" not in str(caught.value)
