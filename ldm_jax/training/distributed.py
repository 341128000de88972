"""Several processes as one run, on JAX's own runtime.

`processes(...)` joins them before anything else uses JAX and parts them at the end, in
bounded time whatever happens to one of them.
"""

import itertools
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src import distributed as jax_distributed
from jax._src.clusters import ClusterEnv
from jax.experimental import multihost_utils

from ldm_jax.training import process_log
from ldm_jax.training.clusters import find_cluster

logger = logging.getLogger(__name__)

START_TIMEOUT = 300  # seconds that processes wait for one another at the start
PEER_TIMEOUT = 100  # seconds after which a process that says nothing counts as lost
EXIT_TIMEOUT = 5  # seconds that one that fails waits for others that fail alike
PATIENCE = 4 * 3600  # seconds that others wait for one that compiles
LOST_EXIT_CODE = 3

_WAITS = itertools.count()

# What runtimes say when a peer is gone: gloo, NCCL, the coordination service.
_LOST = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|socket closed|heartbeat|unavailable"
    r"|deadline_exceeded|coordination|barrier|another (task|process)",
    re.IGNORECASE,
)


@contextmanager
def processes(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    peer_timeout: int = PEER_TIMEOUT,
    start_timeout: int = START_TIMEOUT,
    report: Callable[[BaseException], int],
) -> Iterator[None]:
    """Run the block as one of several processes, if there are several.

    There are if the three arguments say so, or if JAX recognises where it runs: SLURM,
    OpenMPI, a Cloud TPU pod, an indexed Kubernetes job, each with more than one process.
    What arguments leave out is taken from there. Else the block runs by itself.

    Process 0 shows warnings and progress, the others warnings alone, each line marked
    with the process. If the block fails in one process, or a process dies, all of them
    end with a non-zero exit code, after at most about `peer_timeout` seconds.

    Args:
      coordinator_address: "host:port" of process 0, as all others reach it.
      peer_timeout: seconds after which a process that says nothing counts as lost.
      start_timeout: seconds to wait for all processes to come up.
      report: prints what went wrong and returns the exit code.

    Raises:
      ValueError: one sentence if the arguments do not fit together.
    """
    given = _checked(coordinator_address, num_processes, process_id)
    cluster = find_cluster(os.environ)
    if not given and cluster is None:
        yield
        return
    index = given.get("process_id")
    if index is None and cluster is not None:
        index = cluster.get_process_id()
    _start_log(index or 0)
    _join(
        given,
        cluster,
        initialization_timeout=start_timeout,
        heartbeat_timeout_seconds=peer_timeout,
        shutdown_timeout_seconds=peer_timeout,
    )
    if jax.process_index() != 0:
        logging.getLogger("ldm_jax").setLevel(logging.WARNING)
    logger.info("%d processes, %d devices", jax.process_count(), jax.device_count())
    try:
        yield
    except BaseException as error:  # noqa: BLE001
        _leave(error, report)
    jax.distributed.shutdown()


@contextmanager
def no_waiting_for_the_lost() -> Iterator[None]:
    """End this process at once if a computation fails because another one is gone.

    Goes inside of whatever would wait for the others as it closes, such as a writer of
    checkpoints.
    """
    try:
        yield
    except Exception as error:
        if not is_lost_process(error):
            raise
        _tell_lost(error)
        _end(LOST_EXIT_CODE)


@contextmanager
def on_first_process(context: AbstractContextManager) -> Iterator[None]:
    """Enter `context` on process 0 alone; if it fails there, all processes fail.

    Raises:
      ValueError: on the other processes; on process 0, what `context` raised.
    """
    with ExitStack() as stack:
        failure = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(context)
            except Exception as error:  # noqa: BLE001
                failure = error
        if jax.process_count() > 1:
            is_entered = multihost_utils.broadcast_one_to_all(np.array(failure is None))
            if not is_entered and failure is None:
                raise ValueError("process 0 could not start: its own message says why")
        if failure is not None:
            raise failure
        yield


def wait_for_all(what: str) -> None:
    """Wait until every process has come here, however long one of them compiles.

    The collectives of some backends (gloo's on CPUs: 30 seconds) have less patience. The
    death of a process still ends the wait.
    """
    if jax.process_count() > 1:
        _client().wait_at_barrier(f"{what} {next(_WAITS)}", PATIENCE * 1000)


def is_lost_process(error: BaseException) -> bool:
    """Whether an error of a computation over several processes means that one is gone."""
    if jax.process_count() == 1:
        return False
    is_runtime = isinstance(error, jax.errors.JaxRuntimeError | ValueError | OSError)
    return is_runtime and _LOST.search(str(error)) is not None


def _checked(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> dict[str, Any]:
    """The arguments that are given, if they make sense."""
    given = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if coordinator_address is not None and not re.fullmatch(
        r".+:\d+", coordinator_address
    ):
        raise ValueError(
            f"--coordinator_address={coordinator_address} has no port: write it as "
            "host:port, with a free port of the host of process 0"
        )
    if num_processes is not None and num_processes < 1:
        raise ValueError(f"--num_processes={num_processes}: it must be >= 1")
    if process_id is not None and not 0 <= process_id < (num_processes or 2**31):
        raise ValueError(
            f"--process_id={process_id} is not one of --num_processes={num_processes}: "
            "they count from 0"
        )
    if given and len(given) < 3 and find_cluster(os.environ) is None:
        missing = ", ".join(
            f"--{name}"
            for name in ("coordinator_address", "num_processes", "process_id")
            if name not in given
        )
        raise ValueError(
            f"{missing} missing: nothing here says how many processes there are, so all "
            "three of --coordinator_address, --num_processes and --process_id are needed"
        )
    return given


def _join(
    given: Mapping[str, Any], cluster: type[ClusterEnv] | None, **timeouts: Any
) -> None:
    """Start JAX's runtime; what it does not survive ends the process with a sentence."""
    method = "deactivate" if len(given) == 3 else None
    if method is None and cluster is not None:
        method = cluster.name or None
    try:
        jax.distributed.initialize(**given, cluster_detection_method=method, **timeouts)
    except (RuntimeError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"the processes of this run could not be joined ({reason[0][:200]}): give "
            "--coordinator_address, --num_processes and --process_id"
        ) from error


def _start_log(process_id: int) -> None:
    """Put `process_log`, a process of its own, between this one and its stderr."""
    prefix = f"[process {process_id}] " if process_id else ""
    reader, writer = os.pipe()
    command = [sys.executable, "-S", process_log.__file__, prefix]
    subprocess.Popen(command, stdin=reader, start_new_session=True)
    os.close(reader)
    sys.stderr.flush()
    os.dup2(writer, sys.stderr.fileno())
    os.close(writer)


def _leave(error: BaseException, report: Callable[[BaseException], int]) -> NoReturn:
    """End a process whose part failed, not waiting long for the others.

    JAX's own end would wait for minutes for processes that wait for this one. Those that
    fail alike, such as for a mistake in the config, end together.
    """
    if is_lost_process(error):
        _tell_lost(error)
        _end(LOST_EXIT_CODE)
    code = report(error)
    with suppress(Exception):
        _client().wait_at_barrier("leaving", EXIT_TIMEOUT * 1000)
    _end(code)


def _client() -> Any:
    """Of the coordination service, which needs no devices: JAX shows it to nobody."""
    return jax_distributed.global_state.client


def _tell_lost(error: BaseException) -> None:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    print(f"{reason[0][:200]}\nerror: {process_log.LOST}", file=sys.stderr, flush=True)


def _end(code: int) -> NoReturn:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
