"""torch's older files: five pickles in a row, then the storages."""

import io
import mmap
import os
from pathlib import Path
from typing import Any, BinaryIO, cast

from ldm_jax.safe_pickle import FindGlobal, load_plain
from ldm_jax.stored_tensor import Storage
from ldm_jax.torch_archive.tensors import load_tensors, nothing

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def open_stream(path: Path, find_extra: FindGlobal) -> Any:
    """What the file at `path` holds, with `StoredTensor`s.

    Raises:
      ValueError, ...: see `reading.open_torch_archive`.
    """
    storages: dict[str, tuple[Storage, int]] = {}

    def find_storage(key: str, itemsize: int, size: int) -> Storage:
        entry = (Storage(path, size * itemsize), itemsize)
        if storages.setdefault(key, entry) != entry:
            raise ValueError(f"storage {key[:50]!r} has two sizes")
        return storages[key][0]

    with path.open("rb") as file:
        if not file.seek(0, io.SEEK_END):
            raise ValueError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            stream = cast(BinaryIO, mapped)
            header = [load_plain(stream, str(path), nothing) for _ in range(3)]
            _check_header(*header)
            content = load_tensors(stream, path, find_extra, find_storage)
            keys = load_plain(stream, str(path), nothing)
            file.seek(stream.tell())
        _place(storages, keys, file)
    return content


def _check_header(magic: Any, protocol: Any, system: Any) -> None:
    known = (magic, protocol) == (_MAGIC, _PROTOCOL) and isinstance(system, dict)
    if not known:
        raise ValueError("its first bytes are not torch's")
    if system.get("little_endian") is False:
        raise ValueError("its byte order is big-endian, which is not supported")


def _place(storages: dict[str, tuple[Storage, int]], keys: Any, file: BinaryIO) -> None:
    """Each storage follows its number of elements, in the order of `keys`."""
    if not isinstance(keys, list) or sorted(keys) != sorted(storages):
        raise ValueError("its list of storages does not fit its tensors")
    end = os.fstat(file.fileno()).st_size
    for key in keys:
        storage, itemsize = storages[key]
        size = file.read(8)
        storage.offset = file.tell()
        if len(size) < 8 or storage.offset + storage.nbytes > end:
            raise ValueError(f"storage {key[:50]!r} is cut short")
        if int.from_bytes(size, "little") * itemsize != storage.nbytes:
            raise ValueError(f"storage {key[:50]!r} does not have the size it should")
        file.seek(storage.nbytes, io.SEEK_CUR)
