"""`folder:PATH`: the pictures in a folder, at any depth, with captions and classes."""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_jax.data.records import Record, fingerprint_files

EXTENSIONS = (".jpeg", ".jpg", ".png", ".webp")
CAPTION_FILES = ("captions.jsonl", "metadata.jsonl")
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val"}

logger = logging.getLogger(__name__)


@dataclass
class FolderReader:
    """Pictures of a folder by sorted relative path.

    Attributes:
      root: the folder.
      names: paths relative to `root`, with forward slashes.
      class_names: see `open_reader`.
      labels: class label of each picture; empty without classes.
      captions: path -> caption, from caption files; None if the folder has no captions.
      text_files: pictures with a `.txt` beside them, which goes before a caption file.
    """

    spec: str
    root: Path
    names: list[str]
    class_names: tuple[str, ...]
    labels: list[int]
    captions: dict[str, str] | None
    text_files: frozenset[str]

    def __len__(self) -> int:
        return len(self.names)

    def record(self, index: int) -> Record:
        """Annotation keys: name; class_label and caption if the folder has them."""
        name = self.names[index]
        annotation: dict[str, Any] = {"name": name}
        if self.class_names:
            annotation["class_label"] = self.labels[index]
        if self.captions is not None:
            annotation["caption"] = self._caption(name, self.captions)
        return Record(annotation, (self.root / name).read_bytes)

    def fingerprint(self) -> str:
        """Hash of names, sizes and modification times."""
        return fingerprint_files(self.root / name for name in self.names)

    def _caption(self, name: str, captions: dict[str, str]) -> str:
        if name not in self.text_files:
            return captions.get(name, "")
        path = (self.root / name).with_suffix(".txt")
        return " ".join(path.read_text("utf-8", "replace").split())


def open_reader(spec: str, path: str, split: str) -> FolderReader:
    """Scan a folder; hidden files are ignored, links are followed.

    Splits: if the folder has a `train` and a `val` (`valid`, `validation`) subfolder,
    `split` chooses between them and `all` takes both; otherwise every split is the whole
    folder, and a warning says so for `val`.
    Classes: the first-level subfolders (of the split folders), sorted by name, if every
    picture is inside one. Captions: the text of `x.txt` beside `x.jpg`, or lines
    `{"file_name": ..., "caption" or "text": ...}` of a `captions.jsonl` or
    `metadata.jsonl`; file names are relative to the folder of that file. A picture
    without a caption, where others have one, has the empty caption.

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: if it holds no pictures, or a caption file has a malformed line.
    """
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise FileNotFoundError(f"{spec!r} is not a folder: give folder:PATH")
    found = sorted(_walk(root))
    names = [name for name in found if name.lower().endswith(EXTENSIONS)]
    chosen, depth = _choose_split(spec, names, split)
    if not chosen:
        raise ValueError(
            f"{spec!r} has no pictures: looked for {' '.join(EXTENSIONS)} in it and in "
            "all its subfolders"
        )
    classes = _class_names(names, depth)
    label_of = {name: label for label, name in enumerate(classes)}
    captions = _read_caption_files(root, found)
    stems = {name[: -len(".txt")] for name in found if name.endswith(".txt")}
    text_files = frozenset(name for name in chosen if name.rpartition(".")[0] in stems)
    return FolderReader(
        spec=spec,
        root=root,
        names=chosen,
        class_names=classes,
        labels=[label_of[name.split("/")[depth]] for name in chosen] if classes else [],
        captions=captions if captions or text_files else None,
        text_files=text_files,
    )


def _walk(root: Path) -> Iterator[str]:
    """Relative paths of all visible files; a folder reached twice is read once."""
    seen = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        identity = os.path.realpath(folder)
        if identity in seen:
            subfolders.clear()
            continue
        seen.add(identity)
        subfolders[:] = sorted(name for name in subfolders if name[0] != ".")
        relative = Path(folder).relative_to(root)
        for name in files:
            if name[0] != ".":
                yield (relative / name).as_posix()


def _choose_split(spec: str, names: list[str], split: str) -> tuple[list[str], int]:
    """Pictures of the split, and at which depth of their paths classes begin."""
    if split not in ("train", "val", "all"):
        raise ValueError(f"{spec!r} has no split {split!r}: choose train, val or all")
    split_of = {name: SPLIT_FOLDERS.get(name.partition("/")[0]) for name in names}
    if set(split_of.values()) >= {"train", "val"}:
        wanted = ("train", "val") if split == "all" else (split,)
        return [name for name in names if split_of[name] in wanted], 1
    if split == "val" and names:
        logger.warning(
            "%s has no train and val subfolders: its validation pictures are its "
            "training pictures",
            spec,
        )
    return names, 0


def _class_names(names: list[str], depth: int) -> tuple[str, ...]:
    parts = [name.split("/") for name in names]
    if any(len(path) < depth + 2 for path in parts):
        return ()
    return tuple(sorted({path[depth] for path in parts}))


def _read_caption_files(root: Path, found: list[str]) -> dict[str, str]:
    captions = {}
    for name in found:
        folder, _, base = name.rpartition("/")
        if base not in CAPTION_FILES:
            continue
        lines = _read_text(root / name).splitlines()
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = _parse_row(line, f"{root / name}, line {number}")
            caption = row.get("caption", row.get("text"))
            if isinstance(caption, str):
                path = f"{folder}/{row['file_name']}" if folder else row["file_name"]
                captions[path] = caption
    unknown = captions.keys() - set(found)
    if unknown:
        logger.warning(
            "%d captions in %s name no file there, for example %s",
            len(unknown),
            root,
            min(unknown),
        )
    return captions


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as that"
        ) from error


def _parse_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if isinstance(row["file_name"], str):
            return row
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(
        f'{where}: expected a JSON object with "file_name" and "caption" or "text"'
    )
