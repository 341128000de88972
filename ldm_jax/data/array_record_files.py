"""`array_record:GLOB`: pictures in array_record files.

A record is either an encoded image (JPEG, PNG, WebP), or one line of JSON, such as
`{"caption": "a cat", "class_label": 3}`, a newline, and then the encoded image.
"""

import bisect
import glob
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from ldm_jax.data.images import CorruptImage
from ldm_jax.data.records import Record, fingerprint_files

logger = logging.getLogger(__name__)


def pack_record(encoded: bytes, annotation: Mapping[str, Any] | None = None) -> bytes:
    """One record: an encoded image and what is known of it (JSON values)."""
    if not annotation:
        return encoded
    return json.dumps(dict(annotation)).encode() + b"\n" + encoded


def unpack_record(record: bytes) -> tuple[dict[str, Any], bytes]:
    """The inverse of `pack_record`.

    Raises:
      CorruptImage: if the annotation is not a line of JSON.
    """
    if not record.startswith(b"{"):  # as no image format does
        return {}, record
    line, _, encoded = record.partition(b"\n")
    try:
        return json.loads(line), encoded
    except ValueError as error:
        raise CorruptImage("its first line is not JSON") from error


@dataclass
class ArrayRecordReader:
    """The records of several files, one file after the other.

    Attributes:
      paths: the files, sorted.
      files: a random-access reader of each.
      ends: number of records up to the end of each file.
      keys: which annotations the first record has: all others must have them too.
    """

    spec: str
    paths: list[str]
    files: list[Any]
    ends: list[int]
    keys: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.ends[-1]

    def record(self, index: int) -> Record:
        """Annotation keys: name, and those of the record's JSON line."""
        number = bisect.bisect_right(self.ends, index)
        position = index - (self.ends[number - 1] if number else 0)
        name = f"{Path(self.paths[number]).name}[{position}]"
        try:
            annotation, encoded = unpack_record(self.files[number][position])
        except RuntimeError as error:  # array_record's checksums
            raise CorruptImage(f"{name}: {error}") from error
        missing = [key for key in self.keys if key not in annotation]
        if missing:
            raise CorruptImage(f"{name} has no {missing[0]}, unlike the first record")
        annotation = {key: annotation[key] for key in self.keys}
        return Record({"name": name, **annotation}, lambda: encoded)

    def fingerprint(self) -> str:
        """Hash of names, sizes and modification times of the files."""
        return fingerprint_files(Path(path) for path in self.paths)


def open_reader(spec: str, pattern: str, split: str) -> ArrayRecordReader:
    """Open the files that match; `{split}` in the pattern becomes `train` or `val`.

    Raises:
      FileNotFoundError: if none matches.
      ValueError: if a file is not an array_record file, or all are empty.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    if split == "val" and "{split}" not in pattern:
        logger.warning(
            "%s has no {split}: its validation pictures are its training pictures", spec
        )
    name = "*" if split == "all" else split
    paths = sorted(glob.glob(pattern.replace("{split}", name), recursive=True))
    if not paths:
        raise FileNotFoundError(f"no file matches {spec!r}: give array_record:GLOB")
    files = []
    for path in paths:
        try:
            files.append(ArrayRecordDataSource([path]))
        except (RuntimeError, ValueError, OSError) as error:
            raise ValueError(
                f"{path} cannot be read as array_record: {error}"
            ) from error
    reader = ArrayRecordReader(
        spec, paths, files, list(accumulate(len(file) for file in files))
    )
    if len(reader) == 0:
        raise ValueError(f"{spec!r} has no records: its {len(paths)} files are empty")
    reader.keys = tuple(unpack_record(files[0][0])[0]) if len(files[0]) else ()
    return reader
