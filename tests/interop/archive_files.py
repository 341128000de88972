"""Checkpoint files of every format, whole and damaged, for the tests of the archive."""

import json
import struct
import zipfile
from pathlib import Path

import pytest

FORMATS = ("torch zip", "torch legacy", "safetensors")


def tensors():
    """A small state dict of torch tensors of several types."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 32, 3, 3, generator=generator)
    return {
        "model.weight": weight,
        "model.half": weight[:4].half(),
        "model.bfloat16": weight[:4, 0].bfloat16(),
        "model.steps": torch.arange(5),
        "model.scalar": torch.tensor(0.18215),
        "model.empty": torch.zeros(0, 4),
    }


def save(content, path, layout):
    """Write `content` as torch or safetensors do."""
    if layout == "safetensors":
        from safetensors.torch import save_file

        save_file(content, path)
    else:
        import torch

        zipped = layout == "torch zip"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return Path(path)


def rewrite_zip(path, change, folder="archive"):
    """Write the archive anew, after `change(records)`: a dict of name -> bytes."""
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].partition("/")[0] + "/"
        records = {n.removeprefix(root): archive.read(n) for n in archive.namelist()}
    records = change(records) or records
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            archive.writestr(f"{folder}/{name}", data)
    return path


def safetensors_bytes(header, data=b""):
    """A file with this header, which need not be valid."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
