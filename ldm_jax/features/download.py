"""Fetching a published file: whole and with the right checksum, or not at all."""

import hashlib
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Source:
    """A file on the web and its SHA-256."""

    url: str
    sha256: str


def fetch(source: Source, folder: Path) -> Path:
    """Download `source` into `folder`, under the name it has in its URL.

    Raises:
      OSError: not reachable.
      ValueError: the content is not the published one; nothing is left in `folder`.
    """
    target = folder / source.url.rsplit("/", 1)[-1]
    with (
        urllib.request.urlopen(source.url, timeout=_TIMEOUT_SECONDS) as response,
        target.open("wb") as file,
    ):
        shutil.copyfileobj(response, file)
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != source.sha256:
        target.unlink()
        raise ValueError(
            f"{source.url} has sha256 {digest} instead of {source.sha256}: the "
            "download was cut short or the file was replaced, try again later"
        )
    return target
