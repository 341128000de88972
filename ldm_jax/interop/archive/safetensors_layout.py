"""The safetensors format: a JSON header, then the tensors without gaps.

The package safetensors checks files that are read. It can only write what is in memory
all at once, so the writer here is our own (the format's public specification).
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from ldm_jax.interop.archive.lazy_tensors import LazyTensors
from ldm_jax.stored_tensor import Storage, StoredTensor

_DTYPES = {
    "BOOL": np.dtype("?"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def open_safetensors(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors in the file at `path`, unread, and its metadata.

    Raises:
      ValueError: not a safetensors file, truncated, tensors that overlap or leave the
        file, or a dtype that numpy does not have.
    """
    path = path.absolute()
    try:
        with safe_open(path, framework="numpy"):
            pass  # opening checks the header against the file
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None) or {}
        size = path.stat().st_size - 8 - length
        data = Storage(path, size, offset=8 + length)
        return {name: _stored(name, data, **header[name]) for name in header}, metadata
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        detail = str(error).partition("\n")[0][:200]
        raise ValueError(
            f"{path} is not a readable safetensors file ({detail}): it may be truncated, "
            "get it again"
        ) from error


def _stored(
    name: str, data: Storage, *, dtype: str, shape: list[int], data_offsets: list[int]
) -> StoredTensor:
    if dtype not in _DTYPES:
        raise ValueError(f"tensor {name!r} has type {dtype}, which is not supported")
    start, end = data_offsets
    storage = Storage(data.path, end - start, data.offset + start)
    if not 0 <= start <= end <= data.nbytes:
        raise ValueError(f"tensor {name!r} leaves the file")
    return StoredTensor(storage, _DTYPES[dtype], tuple(shape))


def write_safetensors(
    path: str | os.PathLike,
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write one safetensors file, whole or not at all, a tensor at a time.

    Args:
      path: the file; replaced if it exists.
      tensors: `LazyTensors`, or name -> array or lazy array (`dtype`, `shape`, `read()`);
        each is read once, when its turn comes, and dropped.
      metadata: text to store beside them; "format" is "pt" unless given, which is what
        transformers asks for.

    Raises:
      ValueError: a dtype that the format does not have, or a tensor that is not what it
        was announced to be.
      OSError: the file cannot be written.
    """
    path = Path(path)
    entries = tensors.entries if isinstance(tensors, LazyTensors) else dict(tensors)
    # Wide types first keeps every tensor aligned; sorting is stable.
    names = sorted(entries, key=lambda name: -np.dtype(entries[name].dtype).itemsize)
    header = _header({name: entries[name] for name in names}, metadata or {})
    with _replacing(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in names:
            file.write(_raw(name, entries[name]).data)


def _header(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """The JSON header, padded so that the data starts at a multiple of 8 bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    at = 0
    for name, entry in entries.items():
        dtype = _little_endian(entry.dtype)
        if dtype not in _NAMES or name in header:
            raise ValueError(
                f"tensor {name!r} cannot be written to safetensors: its name is taken or "
                f"its type {dtype} is not in the format"
            )
        end = at + math.prod(entry.shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": [int(size) for size in entry.shape],
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _raw(name: str, entry: Any) -> np.ndarray:
    """The tensor's bytes."""
    value = np.asarray(entry.read() if hasattr(entry, "read") else entry)
    if value.shape != tuple(entry.shape) or value.dtype != np.dtype(entry.dtype):
        raise ValueError(
            f"tensor {name!r} was announced as {entry.dtype} {tuple(entry.shape)} but is "
            f"{value.dtype} {value.shape}"
        )
    value = np.ascontiguousarray(value, _little_endian(value.dtype))
    return value.reshape(-1).view(np.uint8)


def _little_endian(dtype: Any) -> np.dtype:
    dtype = np.dtype(dtype)
    return dtype.newbyteorder("<") if dtype.byteorder == ">" else dtype


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once it is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
