"""numpy's own classes, rebuilt from checked parts: numpy trusts what it unpickles."""

from typing import Any

import numpy as np

from ldm_jax.safe_pickle.parts import INERT, BrokenPickleError, Builder


class _DtypeCode:
    """What a pickled numpy dtype says: a code such as "f4", and a byte order."""

    def __init__(self, code: Any, *_flags: Any):
        self.code, self.order = code, "|"

    def dtype(self) -> np.dtype:
        kind, size = str(self.code)[:1], str(self.code)[1:]
        if kind not in "biufc" or not size.isdigit() or self.order not in tuple("<>|="):
            raise BrokenPickleError(f"its pickle has an array of type {self.code!r}")
        return np.dtype(f"{self.order}{kind}{size}")


def set_state(target: Any, state: Any) -> bool:
    """What BUILD means for the objects that `NUMPY` makes; False for any other.

    Raises:
      BrokenPickleError: the state is not one that numpy writes for plain numbers.
    """
    if isinstance(target, _DtypeCode):
        target.order = state[1]
    elif isinstance(target, np.ndarray):
        _fill_array(target, state)
    else:
        return False
    return True


def _fill_array(array: np.ndarray, state: tuple) -> None:
    _, shape, code, is_fortran, data = state
    if array.size or not isinstance(code, _DtypeCode) or not isinstance(data, bytes):
        raise BrokenPickleError("its pickle has an array that makes no sense")
    state = (1, shape, code.dtype(), bool(is_fortran), data)
    array.__setstate__(state)  # pyright: ignore[reportArgumentType]


def _scalar(code: Any, data: Any) -> Any:
    if not isinstance(code, _DtypeCode) or not isinstance(data, bytes):
        raise BrokenPickleError("its pickle has a number that makes no sense")
    return np.frombuffer(data, code.dtype(), count=1)[0]


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise BrokenPickleError(f"its pickle has bytes as {encoding!r} text")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocol 2 writes b""."""
    return b""


_DTYPE = Builder(_DtypeCode)
_EMPTY_ARRAY = Builder(lambda *_: np.empty(0, "u1"))
NUMPY: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): Builder(_encode),
    ("builtins", "bytes"): Builder(_no_bytes),
    ("__builtin__", "bytes"): Builder(_no_bytes),
    ("numpy", "ndarray"): INERT,
    ("numpy", "dtype"): _DTYPE,
    # numpy 1 wrote the first module name and numpy 2 writes the second.
    ("numpy.core.multiarray", "_reconstruct"): _EMPTY_ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _EMPTY_ARRAY,
    ("numpy.core.multiarray", "scalar"): Builder(_scalar),
    ("numpy._core.multiarray", "scalar"): Builder(_scalar),
}
