"""One run at a time in a workdir, and no lock that outlives its run."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ldm_jax.training import workdir_lock
from ldm_jax.training.workdir_lock import WorkdirInUseError, hold

HOLD = """
import sys, time
from ldm_jax.training.workdir_lock import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""


def record_of(machine, beat=0):
    text = json.dumps({"machine": machine, "host": "far", "pid": 7, "beat": beat})
    return text.ljust(512)


def test_a_second_run_is_refused_in_one_sentence_that_names_the_first(tmp_path):
    with hold(tmp_path):
        with pytest.raises(WorkdirInUseError, match="in use") as caught, hold(tmp_path):
            pass
        assert f"process {os.getpid()}" in str(caught.value)
        assert "\n" not in str(caught.value)
    with hold(tmp_path):
        pass


def test_the_lock_of_a_killed_run_does_not_block_the_next(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(WorkdirInUseError, match=f"process {holder.pid}"):
            hold(tmp_path).__enter__()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    started = time.monotonic()
    with hold(tmp_path):
        assert time.monotonic() - started < 5  # not watched: this kernel knows


def test_a_run_of_another_machine_is_believed_while_it_beats(tmp_path):
    path = tmp_path / "run.lock"
    path.write_text(record_of("another"))
    is_over = threading.Event()

    def beat():
        count = 0
        while not is_over.wait(0.05):
            count += 1
            path.write_text(record_of("another", count))

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(WorkdirInUseError, match="process 7 on far"):
            hold(tmp_path, watch_seconds=5).__enter__()
    finally:
        is_over.set()
        beating.join()
    with hold(tmp_path, watch_seconds=0.2):  # it beats no more
        pass


def test_a_run_beats_until_it_ends(tmp_path):
    path = tmp_path / "run.lock"
    with hold(tmp_path, beat_seconds=0.02):
        first = json.loads(path.read_text())
        deadline = time.monotonic() + 10
        while json.loads(path.read_text()) == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert path.read_text() == ""


def test_clocks_do_not_matter(tmp_path, monkeypatch):
    (tmp_path / "run.lock").write_text(record_of(workdir_lock._machine()))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with hold(tmp_path):
        os.utime(tmp_path / "run.lock", (2**33, 2**33))
        with pytest.raises(WorkdirInUseError):
            hold(tmp_path).__enter__()


def test_without_kernel_locks_the_beats_decide(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks on this file system")

    monkeypatch.setattr(workdir_lock.fcntl, "flock", refuse)
    with hold(tmp_path, beat_seconds=0.02), pytest.raises(WorkdirInUseError):
        hold(tmp_path, watch_seconds=5).__enter__()
    with hold(tmp_path, watch_seconds=0.1):
        pass


def test_a_mistake_leaves_no_new_folder_behind(tmp_path):
    with pytest.raises(ValueError), hold(tmp_path / "new"):
        raise ValueError("no such picture folder")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError), hold(tmp_path / "used"):
        (tmp_path / "used" / "config.json").write_text("{}")
        raise ValueError("later")
    assert (tmp_path / "used" / "config.json").exists()
