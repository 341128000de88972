"""Files of `torch.save` as numpy arrays, without torch and without running their code."""

import errno
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_jax.safe_pickle import FindGlobal, UnsafePickleError
from ldm_jax.stored_tensor import StoredTensor
from ldm_jax.torch_archive.stream_layout import open_stream
from ldm_jax.torch_archive.tensors import nothing
from ldm_jax.torch_archive.zip_layout import open_zip

# What damage raises: our own ValueErrors and what `zipfile` lets through; it also seeks
# to negative offsets, an OSError.
_UNREADABLE = (
    ValueError,
    zipfile.BadZipFile,
    NotImplementedError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    struct.error,
    OSError,
)


@dataclass(frozen=True)
class TorchArchive:
    """What a file of `torch.save` holds.

    Attributes:
      content: the saved object: dict, list and tuple of plain values, with a
        `StoredTensor` for each tensor.
      layout: "torch zip" or "torch legacy".
    """

    content: Any
    layout: str


def open_torch_archive(
    path: str | Path, find_extra: FindGlobal = nothing
) -> TorchArchive:
    """Read what `torch.save` wrote to `path`, its tensors' data apart.

    Both layouts are read: the zip archive (torch >= 1.6) and the older stream of
    pickles. Sizes that the file declares are checked against its own before anything is
    allocated.

    Args:
      path: the file.
      find_extra: globals to allow beside torch's and numpy's array machinery, as
        `safe_pickle.load_plain` wants them.

    Raises:
      FileNotFoundError: there is no such file.
      UnsafePickleError: the file names a callable that is not allowed.
      ValueError: not a torch file, truncated, or a tensor outside its storage.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}: check the path of the weights")
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    try:
        if is_zip:
            return TorchArchive(open_zip(path, find_extra), "torch zip")
        return TorchArchive(open_stream(path, find_extra), "torch legacy")
    except UnsafePickleError:
        raise
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        detail = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} is not a readable torch file ({detail}): it may be truncated, get "
            "it again"
        ) from error


def read_torch_archive(path: str | Path) -> Any:
    """All that `torch.save` wrote to `path`, with numpy arrays in place of tensors.

    Raises: as `open_torch_archive`.
    """
    try:
        return _read_all(open_torch_archive(path).content, {})
    except RecursionError as error:
        raise ValueError(f"{path} nests too deeply to be a checkpoint") from error


def _read_all(value: Any, done: dict[int, Any]) -> Any:
    """`done` keeps what is shared shared, and ends cycles."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, StoredTensor):
        done[id(value)] = value.read()
    elif isinstance(value, dict):
        out = done[id(value)] = {}
        out.update((key, _read_all(item, done)) for key, item in value.items())
    elif isinstance(value, list):
        items = done[id(value)] = []
        items.extend(_read_all(item, done) for item in value)
    elif isinstance(value, tuple):
        done[id(value)] = tuple(_read_all(item, done) for item in value)
    else:
        return value
    return done[id(value)]
