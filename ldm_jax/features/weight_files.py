"""Files of weights: reading, checksums, and whether names and shapes are right."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import trees
from ldm_jax.stored_tensor import StoredTensor
from ldm_jax.torch_archive import open_torch_archive

_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")


def sha256(path: Path) -> str:
    """Of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str, advice: str) -> None:
    """Raises:
    ValueError: the file is another one; the message ends in `advice`.
    """
    found = sha256(path)
    if found != expected:
        raise ValueError(f"{path} has sha256 {found} instead of {expected}: {advice}")


def read_state_dict(
    path: Path, prefixes: tuple[str, ...] = ("",)
) -> dict[str, np.ndarray]:
    """A torch state dict: .safetensors, or what torch.save wrote (.pth, .pt, .bin).

    Args:
      path: the file.
      prefixes: of the names to read; the other tensors are left on disk.

    Raises:
      ValueError: unreadable, or something else than tensors by name.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path, prefixes)
    if path.suffix not in _SUFFIXES:
        raise ValueError(
            f"weights {path} end in {path.suffix or 'nothing'}: give a .safetensors or "
            "what torch.save wrote (.pth)"
        )
    state = open_torch_archive(path).content
    is_state = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, StoredTensor)
        for name, value in state.items()
    )
    if not is_state:
        raise ValueError(
            f"weights {path} hold something else than tensors by name: save the "
            "state_dict alone"
        )
    return {
        name: value.read() for name, value in state.items() if name.startswith(prefixes)
    }


def read_safetensors(
    path: Path, prefixes: tuple[str, ...] = ("",)
) -> dict[str, np.ndarray]:
    """Tensors of a .safetensors file whose names start with one of `prefixes`.

    Raises:
      ValueError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = [name for name in file.keys() if name.startswith(prefixes)]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"weights {path} cannot be read: {error}") from error


def checked(
    flat: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    source: str,
    question: str,
) -> dict[str, Any]:
    """The tree of `flat` in float32, if its names and shapes are those of `expected`.

    Args:
      flat: arrays by path; more than `expected` are left out.
      expected: shapes by path.
      source: what the weights are and where they are from, for the message.
      question: what the user should ask, as in "is it VGG16?".

    Raises:
      ValueError: names the first parameter that is missing or has another shape.
    """
    for name, shape in expected.items():
        found = np.shape(flat[name]) if name in flat else None
        if found != tuple(shape):
            raise ValueError(
                f"{source}: {name} should have shape {tuple(shape)}, found "
                f"{'nothing' if found is None else found}; {question}"
            )
    arrays = {name: np.asarray(flat[name], np.float32) for name in expected}
    return trees.unflatten(arrays)
