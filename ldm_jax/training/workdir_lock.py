"""One run at a time in a workdir.

`workdir/run.lock` is locked by the kernel (flock) for as long as its holder lives, so a
killed run never blocks the next one on its machine. Between machines that share a disk,
whose kernels may know nothing of each other's locks, the holder also counts in the file,
a beat every few seconds: whoever finds another machine's record waits to see whether it
still counts. No clock is compared with another, so it does not matter if they differ.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
WATCH_SECONDS = 20.0  # several beats: a holder may be slow to write
_RECORD_BYTES = 512  # rewritten in place, so that a full disk does not matter


class WorkdirInUseError(ValueError):
    """Another run is training in the workdir."""


@contextmanager
def hold(
    workdir: str | Path,
    *,
    beat_seconds: float = BEAT_SECONDS,
    watch_seconds: float = WATCH_SECONDS,
) -> Iterator[None]:
    """Be the only run in `workdir` for the length of a `with` block; made if missing.

    A folder made for a run that then leaves nothing in it, as one that ends in a mistake
    of its command, is removed again.

    Raises:
      WorkdirInUseError: naming process, machine and start of the run that holds it.
    """
    path = Path(workdir) / "run.lock"
    is_new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(file, Path(workdir), watch_seconds)
        ours = _own_record()
        _write(file, ours)
        is_over = threading.Event()
        beating = threading.Thread(
            target=_beat, args=(file, ours, is_over, beat_seconds), daemon=True
        )
        beating.start()
        try:
            yield
        finally:
            is_over.set()
            beating.join()
            os.ftruncate(file, 0)
            if is_new and os.listdir(path.parent) == [path.name]:
                path.unlink()
                path.parent.rmdir()
    finally:
        os.close(file)  # and with it the kernel's lock


def _acquire(file: int, workdir: Path, watch_seconds: float) -> None:
    """Return once it is certain that no other run holds the lock."""
    is_certain = True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(workdir, _read(file)) from None
    except OSError:  # a file system without locks: only the beats tell
        is_certain = False
    found = _read(file)
    if not found or (is_certain and found.get("machine") == _machine()):
        return  # let go of, or its holder was killed
    logger.info(
        "%s was last used by process %s on %s: watching for %.0f seconds whether it still is",
        workdir,
        found.get("pid"),
        found.get("host"),
        watch_seconds,
    )
    deadline = time.monotonic() + watch_seconds
    while time.monotonic() < deadline:
        time.sleep(min(0.5, watch_seconds / 4))
        now = _read(file)
        if now and now != found:
            raise _in_use(workdir, now)


def _in_use(workdir: Path, record: dict[str, Any]) -> WorkdirInUseError:
    return WorkdirInUseError(
        f"{workdir} is in use by another run (process {record.get('pid')} on "
        f"{record.get('host')}, started {record.get('started')}): wait for it, stop it, "
        "or give another --workdir"
    )


def _own_record() -> dict[str, Any]:
    return {
        "run": uuid.uuid4().hex,
        "machine": _machine(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "beat": 0,
    }


def _machine() -> str:
    """Which kernel this is; containers on one machine share it, and its locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _read(file: int) -> dict[str, Any]:
    try:
        record = json.loads(os.pread(file, _RECORD_BYTES, 0))
        return record if isinstance(record, dict) else {}
    except ValueError:
        return {}


def _write(file: int, record: dict[str, Any]) -> None:
    os.pwrite(file, json.dumps(record).encode().ljust(_RECORD_BYTES), 0)


def _beat(
    file: int, record: dict[str, Any], is_over: threading.Event, seconds: float
) -> None:
    """Count, for those who watch. The disk may fail; the kernel's lock still stands."""
    while not is_over.wait(seconds):
        try:
            _write(file, record := {**record, "beat": record["beat"] + 1})
        except OSError:
            continue
