"""The pickle inside torch's files: tensors as views of storages."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import ml_dtypes
import numpy as np

from ldm_jax.safe_pickle import (
    INERT,
    NUMPY,
    BrokenPickleError,
    Builder,
    FindGlobal,
    load_plain,
    ordered_dict,
)
from ldm_jax.stored_tensor import Storage, StoredTensor

# (key, bytes per element, number of elements) -> where the storage lies.
FindStorage = Callable[[str, int, int], Storage]

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_DTYPES = {
    **{name: np.dtype(name) for name in _STORAGES.values() if name != "bfloat16"},
    **{name: np.dtype(name) for name in ("uint16", "uint32", "uint64")},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
}


def nothing(module: str, name: str) -> NoReturn:
    """A `FindGlobal` that knows none."""
    raise KeyError(module, name)


def load_tensors(
    stream: BinaryIO, path: Path, find_extra: FindGlobal, find_storage: FindStorage
) -> Any:
    """The pickled object, with a `StoredTensor` for each tensor.

    Raises: as `safe_pickle.load_plain`.
    """

    def find_global(module: str, name: str) -> Any:
        found = _GLOBALS.get((module, name))
        return find_extra(module, name) if found is None else found

    def persistent_load(pid: Any) -> _Typed:
        kind, dtype, key, _, size, *view = pid
        if kind != "storage" or not isinstance(key, str) or view not in ([], [None]):
            raise BrokenPickleError("it refers to a storage in a way that is not known")
        dtype = None if dtype is _UNTYPED else dtype
        if not isinstance(dtype, np.dtype | None) or type(size) is not int or size < 0:
            raise BrokenPickleError(f"storage {key[:50]!r} makes no sense")
        itemsize = 1 if dtype is None else dtype.itemsize
        return _Typed(find_storage(key, itemsize, size), dtype)

    return load_plain(stream, str(path), find_global, persistent_load)


@dataclass(frozen=True)
class _Typed:
    """A storage as the pickle refers to it; dtype None where the tensor says it."""

    storage: Storage
    dtype: np.dtype | None


def _tensor(typed, offset, shape, strides, *_unused) -> StoredTensor:
    if not isinstance(typed, _Typed) or typed.dtype is None:
        raise BrokenPickleError("a tensor has no storage")
    if not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise BrokenPickleError("a tensor has no shape")
    return StoredTensor(typed.storage, typed.dtype, shape, offset, strides)


def _tensor_v3(typed, offset, shape, strides, _grad, _hooks, dtype, *_) -> StoredTensor:
    if not isinstance(typed, _Typed) or not isinstance(dtype, np.dtype):
        raise BrokenPickleError("a tensor has no type")
    return _tensor(_Typed(typed.storage, dtype), offset, shape, strides)


def _parameter(data, *_unused) -> StoredTensor:
    if not isinstance(data, StoredTensor):
        raise BrokenPickleError("a parameter has no tensor")
    return data


def _tensor_of_type(builder, _type, args, *_state) -> StoredTensor:
    """A tensor with attributes of its own, which are dropped."""
    if not any(builder is known for known in _TENSORS.values()):
        raise BrokenPickleError("a tensor is built by what builds none")
    return builder.build(*args)


_UNTYPED = Builder(lambda *_: None)
_TENSORS = {
    "_rebuild_tensor": Builder(_tensor),
    "_rebuild_tensor_v2": Builder(_tensor),
    "_rebuild_tensor_v3": Builder(_tensor_v3),
    "_rebuild_parameter": Builder(_parameter),
    "_rebuild_parameter_with_state": Builder(_parameter),
}
_GLOBALS = {
    **NUMPY,
    ("collections", "OrderedDict"): Builder(ordered_dict),
    **{("torch._utils", name): builder for name, builder in _TENSORS.items()},
    ("torch._tensor", "_rebuild_from_type_v2"): Builder(_tensor_of_type),
    ("torch", "Tensor"): INERT,
    ("torch.nn.parameter", "Parameter"): INERT,
    ("torch.storage", "UntypedStorage"): _UNTYPED,
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
    **{("torch", name): _DTYPES[dtype] for name, dtype in _STORAGES.items()},
}
