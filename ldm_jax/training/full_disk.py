"""What a run writes beside its checkpoints, on a disk that may be full for a while."""

import errno
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

BUFFER_BYTES = 2**13


def is_full_disk(error: OSError) -> bool:
    """Whether an error says that the disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class PatientFile:
    """A file to append to that keeps in memory what a full disk does not take.

    Bytes reach the file in order and without gaps as soon as there is room; each time
    that there is none any more is one warning. The file is open only while it is written.
    """

    def __init__(self, path: str | Path):
        """Appends to `path`, which is made if missing, with its folder."""
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._kept = bytearray()
        self._is_full = False

    def write(self, data: bytes) -> None:
        """Take `data`; on the disk at the latest with the next `flush`."""
        self._kept += data
        if len(self._kept) >= BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand all that was taken to the system, or keep it if there is no room.

        Raises:
          OSError: for any other trouble.
        """
        if not self._kept:
            return
        try:
            _append(self._path, bytes(self._kept))
        except OSError as error:
            if not is_full_disk(error):
                raise
            if not self._is_full:
                logger.warning(
                    "WARNING: the disk of %s is full: training goes on, and what belongs "
                    "into that file is kept in memory until there is room",
                    self._path,
                )
            self._is_full = True
            return
        self._kept.clear()
        self._is_full = False

    def close(self) -> None:
        """The last `flush`."""
        self.flush()
        if self._kept:
            logger.warning(
                "WARNING: the last %d bytes of %s are lost: its disk is still full",
                *(len(self._kept), self._path),
            )


def _append(path: Path, data: bytes) -> None:
    """All of `data` or nothing."""
    with open(path, "ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
        except OSError:
            file.truncate(size)
            raise
