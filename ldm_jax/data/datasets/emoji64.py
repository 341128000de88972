"""emoji64: 3,235 pictures of 64x64, the vendored set of assets/emoji64/README.md."""

import hashlib
import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ldm_jax import shipped
from ldm_jax.data.records import ImageSource, Record

ARCHIVE = shipped.asset("emoji64/emoji64.zip")
SPLITS = ("train", "val", "all")


def open_source(spec: str, split: str) -> ImageSource:
    """The decoded pictures of one split; see `open_reader`."""
    return ImageSource(open_reader(spec, split))


def open_reader(spec: str, split: str) -> "Emoji64Reader":
    """The reader of one split: `train`, `val` or `all`.

    Raises:
      FileNotFoundError: if the package came without its assets.
      ValueError: for another split.
    """
    if split not in SPLITS:
        raise ValueError(
            f"{spec!r} has no split {split!r}: choose one of {', '.join(SPLITS)}"
        )
    if not ARCHIVE.is_file():
        raise FileNotFoundError(
            f"the vendored pictures are not at {ARCHIVE}: install from a git checkout "
            "(`pip install -e .`) or rebuild them with tools/prepare_emoji.py"
        )
    return Emoji64Reader(spec, ARCHIVE, split)


@dataclass
class Emoji64Reader:
    """Pictures with a caption such as "red apple, 3d" and a class, their category."""

    spec: str
    path: Path
    split: str

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path)  # its reads are locked: threads may share it

    @cached_property
    def _all_rows(self) -> list[dict[str, Any]]:
        lines = self._archive.read("metadata.jsonl").decode().splitlines()
        return [json.loads(line) for line in lines]

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return [row for row in self._all_rows if self.split in (row["split"], "all")]

    @cached_property
    def _categories(self) -> tuple[str, ...]:
        return tuple(sorted({row["category"] for row in self._all_rows}))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The eight categories, sorted."""
        return self._categories

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec, "path": self.path, "split": self.split}

    def __len__(self) -> int:
        return len(self._rows)

    def record(self, index: int) -> Record:
        """Annotation keys: name, caption, class_label, subcategory, style."""
        row = self._rows[index]
        annotation = {
            "name": row["file_name"],
            "caption": f"{row['name']}, {row['style']}",
            "class_label": self.class_names.index(row["category"]),
            "subcategory": row["subcategory"],
            "style": row["style"],
        }
        return Record(annotation, lambda: self._archive.read(row["file_name"]))

    def fingerprint(self) -> str:
        """Hash of the archive's bytes and the split."""
        content = self.path.read_bytes() + self.split.encode()
        return hashlib.sha256(content).hexdigest()
