"""SHA-256 sums of a checkpoint's files: what is read is what was written.

Orbax stores no checksum that a restore would check; a flipped byte comes back as another
parameter. Every checkpoint therefore holds `SHA256SUMS`, in the format of the program
`sha256sum`, so that `cd checkpoints/<step> && sha256sum --check SHA256SUMS` works too. Its
first line, a comment, is the sum of the others.
"""

import hashlib
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FILE_NAME = "SHA256SUMS"
COMMENT = "# sha256 of the lines below: "
NUM_THREADS = 4  # hashlib releases the GIL; one thread reads about 1.5 GB/s


def write_sums(folder: str | Path) -> None:
    """Write `folder/SHA256SUMS` for every file below `folder`, whole or not at all.

    Raises:
      OSError: if a file cannot be read, or the disk is full.
    """
    folder = Path(folder)
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != FILE_NAME
    )
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        digests = pool.map(_digest, (folder / name for name in names))
        rows = [
            f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True)
        ]
    body = "".join(rows)
    partial = folder / f"{FILE_NAME}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        file.write(f"{COMMENT}{_digest_of(body)}\n{body}")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / FILE_NAME)


def has_sums(folder: str | Path) -> bool:
    """Whether `folder` has sums; checkpoints of earlier versions have none."""
    return (Path(folder) / FILE_NAME).is_file()


def find_damage(
    folder: str | Path, parts: Collection[str] | None = None
) -> tuple[str, ...]:
    """Compare the files of a folder with its sums.

    Args:
      folder: one that `has_sums`.
      parts: files and folders in it to look at; None for every file.

    Returns:
      A phrase for each file that is missing or not what was written, such as
      `params/d/0a1b is missing`; empty if all is well.
    """
    folder = Path(folder)
    sums = _read_sums(folder / FILE_NAME)
    if sums is None:
        return (f"{FILE_NAME} is damaged itself",)
    chosen = [name for name in sums if parts is None or _is_below(name, parts)]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = pool.map(lambda name: _damage(folder / name, name, sums[name]), chosen)
        return tuple(phrase for phrase in found if phrase)


def _is_below(name: str, parts: Collection[str]) -> bool:
    return any(name == part or name.startswith(f"{part}/") for part in parts)


def _damage(path: Path, name: str, expected: str) -> str | None:
    try:
        is_intact = _digest(path) == expected
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:  # a disk that knows that it lost a sector
        return f"{name} cannot be read: {error.strerror}"
    return None if is_intact else f"{name} is not what was written"


def _read_sums(path: Path) -> dict[str, str] | None:
    """Sums by name, None unless the file is exactly what was written."""
    try:
        first, _, body = path.read_bytes().decode("utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    if first != f"{COMMENT}{_digest_of(body)}":
        return None
    rows = (line.partition("  ") for line in body.splitlines())
    return {name: digest for digest, _, name in rows}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
