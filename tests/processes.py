"""Commands of this project as processes: one, or several that train together.

Every process is killed at the latest when its block ends or its time is up.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
SHARED_CACHE = ROOT / "tests" / "child_site"
TIMEOUT = 300.0  # seconds; these machines are slow and shared


@dataclass
class Process:
    """A running command, what it writes going to files."""

    popen: subprocess.Popen
    stdout_file: IO[bytes]
    stderr_file: IO[bytes]

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def stderr(self) -> str:
        """All of it so far."""
        return _content(self.stderr_file)

    @property
    def stdout(self) -> str:
        """All of it so far; with several processes gloo writes here as well."""
        return _content(self.stdout_file)

    def send(self, signum: int) -> None:
        """Send a signal, unless it is over."""
        if self.popen.poll() is None:
            self.popen.send_signal(signum)

    def wait(self, timeout: float = TIMEOUT) -> int:
        """The exit code, negative for a signal; AssertionError if it takes too long."""
        try:
            code = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"process {self.pid} still runs after {timeout} s: {self.stderr[-2000:]}"
            ) from None
        time.sleep(0.2)  # its log goes through a process of its own
        return code


@contextmanager
def start(
    command: Sequence[object], *, num_devices: int = 1, **environment: str
) -> Iterator[Process]:
    """Start `command` at the project's root on fake CPU devices; kill what remains of it.

    Args:
      environment: variables, over this process's own.
    """
    xla = f"--xla_force_host_platform_device_count={num_devices}"
    variables = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{xla} --xla_backend_optimization_level=0",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        popen = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env=variables,
            stdout=stdout,
            stderr=stderr,
        )
        try:
            yield Process(popen, stdout, stderr)
        finally:
            if popen.poll() is None:
                os.kill(popen.pid, signal.SIGKILL)
                popen.wait()


@contextmanager
def start_group(
    command: Sequence[object],
    num_processes: int = 2,
    *,
    num_devices: int = 2,
    flags: bool = True,
    environment_of: Callable[[int], dict[str, str]] = lambda process_id: {},
) -> Iterator[list[Process]]:
    """Start `command` once for each of `num_processes`, each with `num_devices`.

    Args:
      flags: tell them of one another by train.py's three flags.
      environment_of: further variables of each process.
    """
    address = f"localhost:{free_port()}"

    def told(process_id: int) -> list[object]:
        return [
            *command,
            f"--coordinator_address={address}",
            f"--num_processes={num_processes}",
            f"--process_id={process_id}",
        ]

    with _all(
        [
            start(
                told(process_id) if flags else command,
                num_devices=num_devices,
                PYTHONPATH=f"{SHARED_CACHE}:{ROOT}",
                **environment_of(process_id),
            )
            for process_id in range(num_processes)
        ]
    ) as group:
        yield group


def train_command(config: str, workdir: Path, **overrides: object) -> list[object]:
    """`python train.py`, with config fields such as `train__num_steps=3`."""
    fields = [
        f"--config.{name.replace('__', '.')}={value}"
        for name, value in overrides.items()
    ]
    files = [f"--config=configs/{config}", f"--workdir={workdir}"]
    return [sys.executable, "train.py", *files, *fields]


def finish(processes: Sequence[Process], timeout: float = TIMEOUT) -> None:
    """Wait for all; AssertionError with the log of one that did not exit with 0."""
    deadline = time.monotonic() + timeout
    for process in processes:
        code = process.wait(max(1.0, deadline - time.monotonic()))
        assert code == 0, f"exit code {code}: {process.stderr[-3000:]}"


def wait_until(
    is_so: Callable[[], bool], processes: Sequence[Process], timeout: float = TIMEOUT
) -> None:
    """Wait for something that running processes bring about."""
    deadline = time.monotonic() + timeout
    while not is_so():
        for process in processes:
            assert process.popen.poll() is None, process.stderr[-3000:]
        assert time.monotonic() < deadline, processes[0].stderr[-3000:]
        time.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens at just now."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@contextmanager
def _all(contexts: list) -> Iterator[list]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield [stack.enter_context(context) for context in contexts]


def _content(file: IO[bytes]) -> str:
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")
