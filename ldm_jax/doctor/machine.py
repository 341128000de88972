"""Devices, versions, and where compiled programs are kept."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import jax
from packaging.requirements import Requirement

from ldm_jax import shipped
from ldm_jax.doctor.sections import Row, size
from ldm_jax.features.search import cache_dir


def devices() -> Iterator[Row]:
    """What jax sees, and the memory of each."""
    found = jax.devices()
    kinds = sorted({device.device_kind for device in found})
    yield jax.default_backend(), f"{len(found)} x {', '.join(kinds)}"
    memory = device_memory()
    yield "memory of each", size(memory) if memory else "not told"
    cores, total = os.cpu_count() or 1, host_memory()
    yield "host", f"{cores} cores, {size(total)}, {platform.machine()}"
    if jax.default_backend() == "cpu" and shutil.which("nvidia-smi"):
        yield (
            "a GPU that jax does not use",
            'pip install "ldm-jax[cuda12]" (or cuda13, by the driver)',
        )


def device_memory() -> int | None:
    """Bytes of one device, as jax tells; of a CPU, what the machine has."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return host_memory()
    return (device.memory_stats() or {}).get("bytes_limit")


def host_memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def versions() -> Iterator[Row]:
    """Installed packages against those required and those that the tests ran with."""
    yield "ldm-jax", f"{_version('ldm-jax')} in {shipped.root()}"
    tested = tested_versions()
    yield "python", f"{platform.python_version()} in {sys.prefix} (needs >=3.11)"
    for line in metadata.requires("ldm-jax") or ():
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        yield wanted.name, _verdict(wanted, tested.get(_canonical(wanted.name)))


def tested_versions() -> dict[str, str]:
    """Of constraints.txt, for this Python; empty if the file is not there."""
    file = shipped.root() / "constraints.txt"
    found = {}
    for line in file.read_text().splitlines() if file.is_file() else ():
        if not line.strip() or line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate():
            found[_canonical(pin.name)] = str(pin.specifier).removeprefix("==")
    return found


def caches() -> Iterator[Row]:
    """Where compiled programs and fetched weights are, and how much they take."""
    compiled = Path(
        os.environ.get("JAX_COMPILATION_CACHE_DIR") or compilation_cache_dir()
    )
    yield "compiled programs", _folder(compiled)
    yield "fetched weights", _folder(cache_dir(), but=compilation_cache_dir())
    place = next(p for p in (compiled, *compiled.parents) if p.exists())
    yield "free there", size(shutil.disk_usage(place).free)


def compilation_cache_dir() -> Path:
    """Where train.py and app.py keep compiled programs unless told otherwise."""
    return Path.home() / ".cache" / "ldm_jax" / "compiled"


def _verdict(wanted: Requirement, tested: str | None) -> str:
    installed = _version(wanted.name)
    if installed is None:
        return f'missing: pip install "{wanted.name}{wanted.specifier}"'
    if not wanted.specifier.contains(installed, prereleases=True):
        return (
            f"{installed} is out of range: pip install "
            f'"{wanted.name}{wanted.specifier}"'
        )
    ran = "" if tested in (None, installed) else f", tests ran with {tested}"
    return f"{installed} ({wanted.specifier}{ran})"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _folder(path: Path, but: Path | None = None) -> str:
    files = [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else []
    files = [f for f in files if but is None or but not in f.parents]
    return f"{path}: {len(files)} files, {size(sum(f.stat().st_size for f in files))}"
