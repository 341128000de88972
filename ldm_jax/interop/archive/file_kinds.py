"""What a file is, by its first bytes, and what to do when it is no checkpoint."""

from pathlib import Path
from typing import Literal

Kind = Literal["torch", "safetensors"]

_PAGES = (b"<!doctype", b"<html", b"<head", b"<body", b"<script", b"<?xml")
_POINTER = (
    "is a Git LFS pointer instead of the weights: run `git lfs pull` in its repository, "
    "or download the file itself"
)
_PACKED = "is an archive: unpack it and give the checkpoint inside"
_FOREIGN = "is of another framework: give a .ckpt or .safetensors file of this model"
# (position, bytes there, what the file is and what to do about it)
_OTHERS = (
    (0, b"version https://git-lfs", _POINTER),
    (0, b"\x1f\x8b", f"{_PACKED} (gzip)"),
    (0, b"BZh", f"{_PACKED} (bzip2)"),
    (0, b"\xfd7zXZ", f"{_PACKED} (xz)"),
    (0, b"\x28\xb5\x2f\xfd", f"{_PACKED} (zstandard)"),
    (0, b"7z\xbc\xaf", f"{_PACKED} (7-zip)"),
    (0, b"Rar!", f"{_PACKED} (rar)"),
    (257, b"ustar", f"{_PACKED} (tar)"),
    (0, b"\x89HDF", f"{_FOREIGN} (HDF5)"),
    (0, b"GGUF", f"{_FOREIGN} (GGUF)"),
)


def kind_of(path: Path) -> Kind:
    """How to read the file at `path`; what is neither kind is left to torch's reader.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is something else; the message says what and what to do.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file or folder at {path}: check the path")
    with path.open("rb") as file:
        start = file.read(1024)
    if not start:
        raise ValueError(f"{path} is empty: the download failed, get it again")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_PAGES):
        raise ValueError(
            f"{path} is an HTML page, not a checkpoint: the download failed, so open its "
            "address in a browser and save the file itself"
        )
    for position, magic, advice in _OTHERS:
        if start[position : position + len(magic)] == magic:
            raise ValueError(f"{path} {advice}")
    if text.startswith((b"{", b"[")) and b"\0" not in start:
        raise ValueError(
            f"{path} is a JSON file, not a checkpoint: give the folder that it is in, or "
            "the file with the weights"
        )
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return "safetensors"
    return "torch"
