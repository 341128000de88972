"""Pickles of plain data from untrusted files: only globals named in a table can load.

`pickle` runs whatever callable a file names. Here a file may name a callable only if it
is in the caller's allow-list; anything else is refused, by name, before it runs.
"""

import pickle
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

Allowed = Mapping[tuple[str, str], Any]

# numpy 1 wrote the first module name and numpy 2 writes the second.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
NUMPY_ARRAYS: Allowed = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class UnsafePickleError(ValueError):
    """A pickle names a callable that the reader does not allow."""


class SafeUnpickler(pickle.Unpickler):
    """An unpickler that resolves only the globals in `allowed`.

    Args:
      file: binary stream positioned at the pickle.
      allowed: (module, name) as written in the file -> the object to use for it.
      source: how error messages call the file.
    """

    def __init__(self, file: BinaryIO, allowed: Allowed, source: str):
        super().__init__(file)
        self._allowed = allowed
        self._source = source

    def find_class(self, module: str, name: str) -> Any:
        """The allowed object called `module.name`.

        Raises:
          UnsafePickleError: if it is not in the table.
        """
        try:
            return self._allowed[module, name]
        except KeyError:
            raise UnsafePickleError(
                f"refused to load {module}.{name} from {self._source}: the file is not "
                "plain arrays, so get it again from a source that you trust"
            ) from None


def load_numpy_pickle(file: BinaryIO, source: str) -> Any:
    """Containers of numpy arrays from a pickle; nothing else in it can run.

    Raises:
      UnsafePickleError: names the first callable that is not numpy's array machinery.
    """
    return SafeUnpickler(file, NUMPY_ARRAYS, source).load()
