"""Several processes: how they find each other, train as one, and part."""

import json
import signal
import sys

import jax
import numpy as np
import processes
import pytest

from ldm_jax.training import checkpoints, clusters, distributed, process_log, sharding

NUM_STEPS = 12
TOY = [sys.executable, processes.ROOT / "tests/training/toy_processes.py"]
# Sums over two processes are in another order than those over one.
RTOL = 1e-5


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return np.array([row["loss"] for row in rows])


def slurm(process_id):
    """What srun sets for each of two tasks on one node."""
    return {
        "SLURM_JOB_ID": "4321",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": str(process_id),
        "SLURM_LOCALID": str(process_id),
    }


def open_mpi(process_id):
    """What OpenMPI 4's mpirun sets for each of two ranks on one host."""
    return {
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(process_id),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(process_id),
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The whole training in one process with four devices."""
    workdir = tmp_path_factory.mktemp("alone")
    with processes.start([*TOY, workdir, NUM_STEPS, 4], num_devices=4) as process:
        processes.finish([process])
    return losses(workdir)


def started_by(environment, *args):
    """Two toy processes that know of each other from their environment alone."""
    port = str(processes.free_port())
    return processes.start_group(
        [*TOY, *args],
        flags=False,
        environment_of=lambda i: {**environment(i), "JAX_COORDINATOR_PORT": port},
    )


def test_one_sigterm_saves_all_at_one_step_and_one_process_goes_on(alone, tmp_path):
    term = [6, int(signal.SIGTERM), 1]
    with started_by(slurm, tmp_path, NUM_STEPS * 100, 4, *term) as group:
        processes.finish(group)
        steps = {json.loads(p.stdout.splitlines()[-1])["step"] for p in group}
        assert "2 processes" not in group[1].stderr
        for line in group[1].stderr.splitlines():
            assert line.startswith("[process 1] ")
    (step,) = steps
    assert 6 <= step == checkpoints.all_steps(tmp_path)[-1] < NUM_STEPS * 100
    num_steps = max(step + 1, NUM_STEPS)
    with processes.start([*TOY, tmp_path, num_steps, 2], num_devices=8) as process:
        processes.finish([process])
    np.testing.assert_allclose(losses(tmp_path)[:NUM_STEPS], alone, rtol=RTOL)


@pytest.mark.slow
def test_a_lost_process_ends_the_others_and_the_next_start_goes_on(alone, tmp_path):
    kill = [6, int(signal.SIGKILL), 1]
    with started_by(open_mpi, tmp_path, NUM_STEPS, 4, *kill) as group:
        assert group[1].wait() == -signal.SIGKILL
        assert group[0].wait(60) == distributed.LOST_EXIT_CODE
        log = group[0].stderr
    assert log.count(f"error: {process_log.LOST}\n") == 1
    assert "Traceback" not in log and "@     0x" not in log
    with processes.start_group([*TOY, tmp_path, NUM_STEPS, 1]) as group:
        processes.finish(group)
    np.testing.assert_allclose(losses(tmp_path), alone, rtol=RTOL)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("localhost", 2, 0), "has no port"),
        (("localhost:1", 2, 2), "--process_id=2 is not one of"),
        (("localhost:1", 0, 0), "--num_processes=0"),
        (("localhost:1", None, 0), "--num_processes missing"),
        ((None, 2, None), "--coordinator_address, --process_id missing"),
    ],
)
def test_flags_that_do_not_fit_together_are_one_sentence(flags, message):
    with (
        pytest.raises(ValueError, match=message) as caught,
        distributed.processes(*flags, report=lambda error: 2),
    ):
        pass
    assert "\n" not in str(caught.value)


def cluster_of(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return clusters.find_cluster(environment)


def test_environments_of_several_processes_are_recognised(monkeypatch):
    with monkeypatch.context() as patch:
        found = cluster_of(slurm(1), patch)
        assert found is not None
        assert found.name == "slurm" and found.get_process_id() == 1
    with monkeypatch.context() as patch:
        found = cluster_of(open_mpi(1), patch)
        assert found is not None
        assert found.name == "ompi" and found.get_process_id() == 1
    with monkeypatch.context() as patch:
        ompi5 = open_mpi(1) | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_NAMESPACE": "j"}
        del ompi5["OMPI_MCA_orte_hnp_uri"]
        found = cluster_of(ompi5, patch)
        assert found is not None
        assert found.name == "ompi5"
        assert found.get_coordinator_address(1, "99") == "localhost:99"
        patch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "1")
        with pytest.raises(ValueError, match="give --coordinator_address"):
            found.get_coordinator_address(1, None)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        slurm(0) | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"},
        slurm(0) | {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"},  # salloc's shell
        open_mpi(0) | {"OMPI_COMM_WORLD_SIZE": "1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},  # a notebook's pod
    ],
)
def test_one_process_stays_by_itself(environment, monkeypatch):
    assert cluster_of(environment, monkeypatch) is None


ABORT = """\
F1121 16:16:10.0 1 client.h:80] Terminating process because the JAX distributed service \
detected fatal errors. absl::Status: {status}

RPC: /xla.coordination.CoordinationService/{rpc} [type.googleapis.com/x='']
*** Check failure stack trace: ***
    @     0x7fc459240634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
Fatal Python error: Aborted

Thread 0x00007f7c6e5c4b80 (most recent call first):
  File "/a/b.py", line 353 in backend_compile_and_load
"""


@pytest.mark.parametrize(
    ("status", "rpc", "sentence"),
    [
        ("UNAVAILABLE: stopped sending heartbeats", "PollForError", process_log.LOST),
        ("DEADLINE_EXCEEDED: Deadline", "RegisterTask", process_log.ABSENT),
        ("INVALID_ARGUMENT: task=2", "RegisterTask", process_log.MISNUMBERED),
    ],
)
def test_an_abort_of_the_runtime_becomes_one_sentence(status, rpc, sentence):
    lines = process_log.Filter()
    text = "before\n" + ABORT.format(status=status, rpc=rpc)
    shown = [lines.show(line) for line in text.splitlines(keepends=True)]
    assert [line for line in shown if line is not None] == ["before\n"]
    assert lines.finish() == f"error: {sentence}\n"


def test_a_healthy_log_passes_unchanged():
    lines = process_log.Filter()
    text = ["step 1\n", "\n", "  File here\n", "3\n", "Traceback\n"]
    assert [lines.show(line) for line in text] == text
    assert lines.finish() is None


def test_rows_of_a_process_follow_its_devices_through_the_mesh():
    mesh = sharding.make_mesh(8, 1, devices=jax.devices()[::-1])
    place = sharding.batch_sharding(mesh)
    np.testing.assert_array_equal(sharding.process_rows(place, 16), np.arange(16))


def test_only_runtime_errors_of_several_processes_mean_a_lost_one(monkeypatch):
    gone = ValueError("Gloo all-reduce failed: Connection closed by peer")
    assert not distributed.is_lost_process(gone)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert distributed.is_lost_process(gone)
    for mine in (ValueError("no such field"), KeyError("gloo"), TypeError("barrier")):
        assert not distributed.is_lost_process(mine)


def test_what_fails_on_the_first_process_alone_is_its_own_error(tmp_path):
    entered = []

    class Context:
        def __enter__(self):
            entered.append(True)

        def __exit__(self, *_):
            entered.append(False)

    with distributed.on_first_process(Context()):
        assert entered == [True]
    assert entered == [True, False]
