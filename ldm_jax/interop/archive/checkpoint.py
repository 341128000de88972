"""Any file or folder of weights as one lazy state dict."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.interop.archive import file_kinds, folders
from ldm_jax.interop.archive.lazy_tensors import LazyTensors
from ldm_jax.interop.archive.safetensors_layout import open_safetensors
from ldm_jax.interop.archive.stand_ins import find_stand_in
from ldm_jax.stored_tensor import StoredTensor
from ldm_jax.torch_archive import open_torch_archive


@dataclass(frozen=True)
class Meta:
    """What a checkpoint says beside its tensors.

    Attributes:
      step: optimizer steps (`global_step`), where it says.
      epoch: where it says.
      lightning_version: of pytorch-lightning, "" without.
      extras: other keys on the top level (optimizer_states, callbacks, ...), not read.
      skipped: entries of the state dict that are no tensors.
      metadata: the text in a safetensors header.
    """

    step: int | None = None
    epoch: int | None = None
    lightning_version: str = ""
    extras: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; its tensors are still on disk.

    Attributes:
      path: the file or folder, as given.
      format: "torch zip", "torch legacy" or "safetensors".
      tensors: torch name -> tensor in torch's layout, read on demand.
      meta: what the file says beside them.
      files: the files that the tensors are in.
    """

    path: Path
    format: str
    tensors: LazyTensors
    meta: Meta
    files: tuple[Path, ...]


def open_checkpoint(path: str | os.PathLike, variant: str = "") -> Checkpoint:
    """Open a checkpoint without running anything in it and without reading tensors.

    Args:
      path: a .ckpt, .pt, .pth or .bin of `torch.save` (with or without "state_dict"), a
        .safetensors, or a component folder of a diffusers or transformers model; the
        content decides, not the name.
      variant: of a folder's files, such as "fp16".

    Raises:
      FileNotFoundError: there is nothing at `path`, or a part of it is missing.
      UnsafePickleError: the file names a callable that is not known to be harmless.
      ValueError: damaged or something else; one sentence says what to do.
    """
    path = Path(path)
    if not path.is_dir():
        return _open_file(path)
    files = folders.weight_files(path, variant)
    parts = {file: _open_file(file) for file in files}
    entries: dict[str, Any] = {}
    for file, names in files.items():
        tensors = parts[file].tensors
        missing = [name for name in names or () if name not in tensors]
        if missing:
            raise ValueError(
                f"{file} lacks {missing[0]!r}, which the index of {path} puts there: get "
                "all of its files again"
            )
        taken = tensors if names is None else names
        entries.update((name, tensors.entries[name]) for name in taken)
    first = next(iter(parts.values()))
    return Checkpoint(
        path, first.format, LazyTensors(entries), first.meta, tuple(files)
    )


def _open_file(path: Path) -> Checkpoint:
    if file_kinds.kind_of(path) == "safetensors":
        entries, metadata = open_safetensors(path)
        step = metadata.get("global_step", metadata.get("step"))
        meta = Meta(_integer(step), _integer(metadata.get("epoch")), metadata=metadata)
        return Checkpoint(path, "safetensors", LazyTensors(entries), meta, (path,))
    archive = open_torch_archive(path, find_stand_in)
    entries, meta = _split(archive.content, path)
    return Checkpoint(path, archive.layout, LazyTensors(entries), meta, (path,))


def _split(content: Any, path: Path) -> tuple[dict[str, StoredTensor], Meta]:
    """The tensors of a torch file, and the rest of it."""
    content = content if isinstance(content, dict) else {}
    nested = isinstance(content.get("state_dict"), dict)
    state = content["state_dict"] if nested else content
    names = [name for name in state if isinstance(name, str)]
    tensors = {
        name: state[name] for name in names if isinstance(state[name], StoredTensor)
    }
    if not tensors:
        listed = ", ".join(names[:8]) or "none"
        raise ValueError(
            f"{path} holds no tensors at its top level or under 'state_dict' (keys: "
            f"{listed}): save the state_dict alone"
        )
    others = [name for name in names if name not in tensors]
    top = [name for name in content if isinstance(name, str) and name != "state_dict"]
    version = content.get("pytorch-lightning_version")
    meta = Meta(
        step=_integer(content.get("global_step")),
        epoch=_integer(content.get("epoch")),
        lightning_version=version if isinstance(version, str) else "",
        extras=tuple(top if nested else others),
        skipped=tuple(others if nested else ()),
    )
    return tensors, meta


def _integer(value: Any) -> int | None:
    if isinstance(value, StoredTensor):
        value = value.read().item() if value.size == 1 else None
    if isinstance(value, str):
        value = int(value) if value.isdecimal() and len(value) < 19 else None
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return None
    return int(value)
