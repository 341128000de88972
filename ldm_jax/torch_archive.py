"""Files of `torch.save` as numpy arrays, without torch and without running their code.

Both layouts are read: the zip archive (torch >= 1.6) and the older stream of pickles
that torchvision's 2017 weights still use. Tensors come back as numpy arrays (bfloat16
as ml_dtypes.bfloat16); containers come back as they are.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from ldm_jax.safe_pickle import SafeUnpickler

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_UNREADABLE = (
    EOFError,
    KeyError,
    StopIteration,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


def read_torch_archive(path: str | Path) -> Any:
    """What `torch.save` wrote to `path`, with numpy arrays in place of tensors.

    Raises:
      FileNotFoundError: there is no such file.
      UnsafePickleError: the file names a callable other than torch's tensor builders.
      ValueError: not a torch file, truncated, or a tensor outside its storage.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}: check the path of the weights")
    read = _read_zip if zipfile.is_zipfile(path) else _read_stream
    try:
        return read(path)
    except _UNREADABLE as error:
        raise ValueError(
            f"{path} is not a readable torch file ({error}): it may be truncated, get "
            "it again"
        ) from error


class _TensorUnpickler(SafeUnpickler):
    """Resolves torch's tensor builders and hands out storages as flat arrays."""

    def __init__(self, file: BinaryIO, path: Path):
        super().__init__(file, _ALLOWED, str(path))
        self._max_bytes = path.stat().st_size
        self.storages: dict[str, np.ndarray] = {}

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, dtype, key, _, size, *view = pid
        if view not in ([], [None]):
            raise pickle.UnpicklingError(f"storage {key} is a view of another")
        if key not in self.storages:
            if not 0 <= size * dtype.itemsize <= self._max_bytes:
                raise EOFError(f"storage {key} is larger than the whole file")
            self.storages[key] = np.empty(size, dtype)
        return self.storages[key]


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        index = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        unpickler = _TensorUnpickler(io.BytesIO(archive.read(index)), path)
        result = unpickler.load()
        for key, storage in unpickler.storages.items():
            data = archive.read(f"{index.removesuffix('data.pkl')}data/{key}")
            _fill(storage, data, key)
    return result


def _read_stream(path: Path) -> Any:
    with path.open("rb") as file:
        header = [SafeUnpickler(file, {}, str(path)).load() for _ in range(3)]
        if header[:2] != [_MAGIC, _PROTOCOL]:
            raise EOFError("its first bytes are not torch's")
        unpickler = _TensorUnpickler(file, path)
        result = unpickler.load()
        for key in SafeUnpickler(file, {}, str(path)).load():
            size = int.from_bytes(file.read(8), "little")
            storage = unpickler.storages[key]
            if size != storage.size:
                raise EOFError(f"storage {key} has an unexpected size")
            _fill(storage, file.read(storage.nbytes), key)
    return result


def _fill(storage: np.ndarray, data: bytes, key: str) -> None:
    """Tensors were built as views of `storage`, so its bytes can arrive last."""
    if len(data) != storage.nbytes:
        raise EOFError(f"storage {key} is cut short")
    storage[:] = np.frombuffer(data, storage.dtype)


def _rebuild_tensor(storage, offset, size, stride, *_unused) -> np.ndarray:
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    negative = min([offset, *size, *stride]) < 0
    if negative or (math.prod(size) > 0 and last >= storage.size):
        raise pickle.UnpicklingError("a tensor reaches outside its storage")
    strides = [s * storage.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides)


def _rebuild_parameter(data, *_unused) -> np.ndarray:
    return data


_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
}
