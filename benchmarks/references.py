"""The same networks in torch: diffusers' and transformers' classes with our weights.

torch, diffusers and transformers are imported on first use: without them rows show our
side alone.
"""

import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import Setting
from ldm_jax.interop.diffusers_autoencoder import autoencoder_config
from ldm_jax.interop.diffusers_conditioner import clip_config
from ldm_jax.interop.diffusers_parts import (
    Component,
    autoencoder_component,
    text_component,
    unet_component,
)
from ldm_jax.interop.diffusers_unet_config import unet_config

_KEPT: list[Any] = []  # torch forgets the operators of a library that is collected


def import_diffusers() -> Any:
    """diffusers, quiet, also where torchvision's compiled operators do not load."""
    warnings.filterwarnings("ignore", module="torchvision|transformers|diffusers")
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except RuntimeError:
        _declare_operators()
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    return diffusers


def _declare_operators() -> None:
    """The two that torchvision asks for while it is imported."""
    import torch

    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(
            f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    _KEPT.append(library)


def unet(
    module: Any, params: Any, in_channels: int, tokens_dim: int | None, side: int
) -> Any:
    """diffusers' U-Net that computes what ours does."""
    config = unet_config(
        module, in_channels=in_channels, tokens_dim=tokens_dim, sample_size=side
    )
    part = unet_component("", module, in_channels, tokens_dim)
    return _loaded(config["_class_name"], config, part, {"backbone": params})


def autoencoder(module: Any, params: Any, side: int) -> Any:
    """diffusers' first stage that computes what ours does."""
    config = autoencoder_config(module, latent_scale=1.0, sample_size=side)
    part = autoencoder_component("", module)
    return _loaded(config["_class_name"], config, part, {"autoencoder": params})


def clip_text(module: Any, params: Any) -> Any:
    """transformers' CLIPTextModel that computes what ours does."""
    import_diffusers()
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        part = text_component("", module, ())
        part.write(Path(folder), {"conditioner": params})
        (Path(folder) / "config.json").write_text(json.dumps(clip_config(module)))
        return transformers.CLIPTextModel.from_pretrained(folder).eval()


def _loaded(
    kind: str, config: dict[str, Any], part: Component, params: dict[str, Any]
) -> Any:
    diffusers = import_diffusers()
    with tempfile.TemporaryDirectory() as folder:
        part.write(Path(folder), params)
        (Path(folder) / "config.json").write_text(json.dumps(config))
        return getattr(diffusers, kind).from_pretrained(folder).eval()


def variants(
    setting: Setting, model: Any, make_call: Callable[[Any, Any], Any]
) -> dict[str, Any]:
    """A call for each reference of the setting: `make_call(model, memory_format)`.

    One set of weights serves all; memory order alone is changed from call to call, before
    the clock of `alternate` would see it only in its first, untimed round.
    """
    import torch

    orders = {"eager": torch.contiguous_format}
    chosen = {}
    for name in setting.references:
        order = orders.get(name, torch.channels_last)
        network = model if name == "eager" else _copy(model, order)
        if name == "compile":
            network = torch.compile(network)
        chosen[f"torch {name}"] = make_call(network, order)
    return chosen


def _copy(model: Any, order: Any) -> Any:
    import copy

    return copy.deepcopy(model).to(memory_format=order)


def on_device(setting: Setting, module: Any) -> Any:
    """A torch module on the setting's device, in its dtype."""
    import torch

    dtype = getattr(torch, setting.dtype)
    return module.to("cuda" if setting.device == "gpu" else "cpu", dtype)


def tensor(setting: Setting, x: np.ndarray, order: Any = None) -> Any:
    """An NHWC array as an NCHW tensor in the memory order given; others as they are."""
    import torch

    device = "cuda" if setting.device == "gpu" else "cpu"
    if x.ndim == 4:
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    y = torch.from_numpy(np.array(x)).to(device)
    if y.is_floating_point():
        y = y.to(getattr(torch, setting.dtype))
    return y.to(memory_format=order) if y.ndim == 4 and order is not None else y


def finished(setting: Setting, call: Callable[[], Any]) -> Callable[[], Any]:
    """`call`, back only when the device is done."""
    import torch

    if setting.device != "gpu":
        return call

    def run() -> Any:
        out = call()
        torch.cuda.synchronize()
        return out

    return run
