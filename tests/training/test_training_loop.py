"""The loop: resume after any kind of end, signals, divergence."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from ldm_jax.training import checkpoints, hooks
from ldm_jax.training.loop import run, stop_on_signal
from ldm_jax.training.metrics import DivergedError
from ldm_jax.trees import flatten

ROOT = Path(__file__).parents[2]
NUM_STEPS, NEVER = 12, 0


def train(workdir, *, at_step=NEVER, signum=signal.SIGKILL):
    """The toy run as a process that gets a signal after a step; its exit code."""
    command = [sys.executable, toy.__file__, workdir, NUM_STEPS, at_step, int(signum)]
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=200,
        check=False,
    ).returncode


def losses(workdir):
    """The deterministic part of metrics.jsonl."""
    rows = [json.loads(x) for x in (workdir / "metrics.jsonl").open()]
    return [
        {k: v for k, v in row.items() if k not in ("images_per_sec", "mfu")}
        for row in rows
    ]


def assert_same_end(resumed, uninterrupted):
    assert losses(resumed) == losses(uninterrupted)
    assert [row["step"] for row in losses(resumed)] == list(range(1, NUM_STEPS + 1))
    for item in checkpoints.ITEMS:
        ours, theirs = (
            flatten(checkpoints.load_item(workdir, item, step=NUM_STEPS))
            for workdir in (resumed, uninterrupted)
        )
        assert ours.keys() == theirs.keys() and ours
        for name, value in ours.items():
            np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    assert train(workdir) == 0
    return workdir


def test_run_killed_twice_resumes_bit_for_bit(uninterrupted, tmp_path):
    during_a_save, between_saves = toy.CHECKPOINT_EVERY, 2 * toy.CHECKPOINT_EVERY + 2
    for step in (during_a_save, between_saves):
        assert train(tmp_path, at_step=step) == -signal.SIGKILL
        assert losses(tmp_path)[-1]["step"] == step
    assert max(checkpoints.all_steps(tmp_path)) < NUM_STEPS
    assert train(tmp_path) == 0
    assert_same_end(tmp_path, uninterrupted)


def test_sigterm_saves_the_step_and_exits_cleanly(uninterrupted, tmp_path):
    assert train(tmp_path, at_step=6, signum=signal.SIGTERM) == 0
    assert checkpoints.all_steps(tmp_path) == [4, 6]
    assert train(tmp_path) == 0
    assert_same_end(tmp_path, uninterrupted)


def count_state(state, batch):
    """A step that only counts."""
    return state.replace(step=state.step + 1), {"loss": batch["x"]}


def counting(values):
    return ({"x": jnp.float32(value)} for value in values)


def test_loop_goes_from_the_state_to_the_last_step():
    seen = []
    state = toy.tiny_state(3)
    spy = lambda step, state, metrics: seen.append((step, float(metrics["loss"])))
    end = run(state, counting([1, 2, 3, 4]), count_state, [spy], 6)
    assert seen == [(4, 1), (5, 2), (6, 3)]
    assert int(end.step) == 6
    assert run(end, counting([]), count_state, [spy], 6) is end


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_loop_after_its_step(signum):
    before = signal.getsignal(signum)
    send = lambda step, state, metrics: step == 2 and os.kill(os.getpid(), signum)
    with stop_on_signal() as should_stop:
        state = run(
            toy.tiny_state(),
            counting(range(9)),
            count_state,
            [send],
            9,
            should_stop=should_stop,
        )
    assert int(state.step) == 2
    assert signal.getsignal(signum) is before


def test_divergence_stops_the_run_and_saves_nothing_bad(tmp_path):
    data = counting([1.0, 1.0, float("nan"), 1.0, 1.0, 1.0])
    with checkpoints.open_checkpoints(tmp_path) as manager:
        save = hooks.save_checkpoint(manager)
        with pytest.raises(DivergedError, match="loss is nan at step 3") as caught:
            run(toy.tiny_state(), data, count_state, [save], 6)
    assert checkpoints.all_steps(tmp_path) == [1, 2]
    assert "\n" not in str(caught.value)


def test_divergence_is_noticed_without_hooks_one_step_later():
    seen = []
    spy = lambda step, state, metrics: seen.append(step)
    data = counting([1.0, float("inf"), 1.0, 1.0])
    with pytest.raises(DivergedError, match="at step 2"):
        run(toy.tiny_state(), data, count_state, [spy], 4)
    assert seen == [1, 2]
    with pytest.raises(DivergedError, match="at step 1"):
        run(toy.tiny_state(), counting([float("nan")]), count_state, [], 1)


def test_steps_make_no_implicit_transfer():
    double = jax.jit(lambda state, batch: (state, {"loss": 2 * batch["x"]}))
    state, _ = double(toy.tiny_state(), next(counting([1])))
    batches = list(counting([1.0, 2.0]))
    with jax.transfer_guard("disallow"):
        run(state, batches, double, [], 2)
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            run(state, [{"x": np.float32(3)}], double, [], 1)
