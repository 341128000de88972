"""What every data format provides, and how it becomes a source of decoded pictures."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ldm_jax.data.batch import Example
from ldm_jax.data.images import CorruptImage, decode_pixels

MAX_CORRUPT_RATE = 0.5
MAX_CORRUPT_RUN = 100

logger = logging.getLogger(__name__)


class Record(NamedTuple):
    """An undecoded picture: its annotation is at hand, its bytes are not yet read.

    Attributes:
      annotation: `name` and, where the format has them, `caption`, `class_label`, ...
      load: reads the encoded bytes; raises `OSError` or `CorruptImage` if it cannot.
    """

    annotation: Mapping[str, Any]
    load: Callable[[], bytes]


class Reader(Protocol):
    """One data format: random access to records. Instances must pickle cheaply."""

    spec: str

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def record(self, index: int) -> Record:
        """The record at `index`; raises `CorruptImage` if it cannot be read."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the pictures or their order do."""
        ...


class Source(Protocol):
    """Random access to examples; what pipelines and latent caches are built on."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    def annotation(self, index: int) -> Mapping[str, Any]:
        """Everything but the picture, without decoding it."""
        ...

    def fingerprint(self) -> str: ...


@dataclass
class ImageSource:
    """Decoded pictures of a reader.

    A picture that cannot be read is replaced by the next readable one, so that what
    stands at an index never depends on who asks or when; it is logged once by name and
    kept in `corrupt`.

    Attributes:
      reader: the data format.
      corrupt: name -> reason, of the unreadable pictures met so far in this process.
    """

    reader: Reader
    corrupt: dict[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> str:
        """What this source was opened with, such as `folder:/path`."""
        return self.reader.spec

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class label; empty if the pictures have no classes."""
        return self.reader.class_names

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Example:
        """The picture at `index`, or the first readable one after it.

        Raises:
          IndexError: outside `[0, len)`.
          ValueError: if most pictures of the source, or very many in a row, are corrupt.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)} in {self.spec}")
        for offset in range(min(len(self), MAX_CORRUPT_RUN)):
            candidate = (index + offset) % len(self)
            name = f"record {candidate}"
            try:
                record = self.reader.record(candidate)
                name = record.annotation["name"]
                image = decode_pixels(record.load())
            except (CorruptImage, OSError) as error:
                report_corrupt(self, name, error)
                continue
            return Example(image=image, index=candidate, **record.annotation)
        raise too_many_corrupt(self)

    def annotation(self, index: int) -> dict[str, Any]:
        """Name, caption, class and so on of the picture at `index`, not decoded."""
        return dict(self.reader.record(index).annotation)

    def fingerprint(self) -> str:
        """A hash that changes when the pictures or their order do."""
        return self.reader.fingerprint()


def report_corrupt(source: Any, name: str, error: Exception) -> None:
    """Log once that a picture was skipped, and note it in `source.corrupt`.

    Raises:
      ValueError: if most pictures of the source were.
    """
    if name not in source.corrupt:
        source.corrupt[name] = str(error)
        logger.warning("skipped unreadable picture %s: %s", name, error)
    if len(source.corrupt) > MAX_CORRUPT_RATE * len(source):
        raise too_many_corrupt(source)


def too_many_corrupt(source: Any) -> ValueError:
    """The error that names some of `source.corrupt`."""
    examples = ", ".join(f"{n} ({r})" for n, r in list(source.corrupt.items())[:3])
    return ValueError(
        f"too many unreadable pictures in {source.spec} ({len(source.corrupt)} of "
        f"{len(source)} so far): look at {examples}"
    )


def fingerprint_files(paths: Iterable[Path]) -> str:
    """Hash of the paths, sizes and modification times of files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
            line = f"{path} {status.st_size} {status.st_mtime_ns}\n"
        except OSError:  # a dangling link
            line = f"{path} missing\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
