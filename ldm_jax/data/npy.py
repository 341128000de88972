"""numpy's files as they come from a disk."""

import tokenize
from pathlib import Path

import numpy as np

# What numpy raises for a header that is cut short or makes no sense.
_DAMAGED = (
    ValueError,
    TypeError,
    LookupError,
    SyntaxError,
    EOFError,
    tokenize.TokenError,
)


def open_npy(path: Path | str) -> np.ndarray:
    """An array left in its file, read where it is indexed; never a pickle.

    Raises:
      OSError: if there is no such file.
      ValueError: one sentence if it is damaged.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is no array of numpy's ({reason})") from error
