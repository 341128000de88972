"""torch's zip archives (torch >= 1.6): one pickle and one stored file per storage."""

import io
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ldm_jax.safe_pickle import FindGlobal
from ldm_jax.stored_tensor import Storage, StoredTensor
from ldm_jax.torch_archive.tensors import load_tensors

_MAX_PICKLE_BYTES = 1 << 28


def open_zip(path: Path, find_extra: FindGlobal) -> Any:
    """What the archive at `path` holds, with `StoredTensor`s.

    Raises:
      ValueError, zipfile.BadZipFile, ...: see `reading.open_torch_archive`.
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        records = _records(archive, file, path)
    root = _root(records)
    if _bytes_of(records.get(f"{root}byteorder")) == b"big":
        raise ValueError("its byte order is big-endian, which is not supported")
    stream = io.BytesIO(_bytes_of(records[f"{root}data.pkl"]))

    def find_storage(key: str, itemsize: int, size: int) -> Storage:
        storage = records.get(f"{root}data/{key}")
        if storage is None:
            raise ValueError(f"storage {key[:50]!r} is missing")
        if storage.nbytes != size * itemsize:
            raise ValueError(
                f"storage {key[:50]!r} should have {size * itemsize} bytes and has "
                f"{storage.nbytes}"
            )
        return storage

    return load_tensors(stream, path, find_extra, find_storage)


def _root(records: dict[str, Storage]) -> str:
    """The folder that torch puts everything into, with its slash."""
    pickles = [name for name in records if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(pickles) != 1:
        raise ValueError(
            "it is a zip archive that torch.save did not write: if a checkpoint is "
            "inside, unpack it and give that"
        )
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in records:
        raise ValueError("it is a TorchScript program: save its state_dict instead")
    return root


def _records(
    archive: zipfile.ZipFile, file: BinaryIO, path: Path
) -> dict[str, Storage]:
    """Where each file in the archive lies: stored as is, apart, inside the archive."""
    found: dict[str, Storage] = {}
    end = 0  # of the files so far
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        if info.is_dir():
            continue
        name = repr(info.filename[:100])
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ValueError(
                f"{name} in it is compressed or encrypted, which torch.save never does"
            )
        if info.compress_size != info.file_size or info.filename in found:
            raise ValueError(f"{name} in it has two sizes or stands there twice")
        if not 0 <= info.header_offset < archive.start_dir:
            raise ValueError(f"{name} in it is not where the index says")
        file.seek(info.header_offset)
        header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\3\4" or info.header_offset < end:
            raise ValueError(f"{name} in it is not where the index says")
        offset = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        end = offset + info.file_size
        found[info.filename] = Storage(path, info.file_size, offset, info.CRC)
    if end > archive.start_dir:
        raise ValueError("a file in it reaches past its end")
    return found


def _bytes_of(record: Storage | None) -> bytes:
    if record is None:
        return b""
    if record.nbytes > _MAX_PICKLE_BYTES:
        raise ValueError(f"its pickle is larger than {_MAX_PICKLE_BYTES} bytes")
    data = StoredTensor(record, np.dtype("u1"), (record.nbytes,))
    try:
        return data.read().tobytes()
    except ValueError as error:
        raise ValueError("its pickle has a wrong checksum") from error
