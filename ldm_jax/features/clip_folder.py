"""What a folder of transformers or OpenCLIP says of its image encoder."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_jax.features.clip_image import MEAN, STD, ClipImage

_TRANSFORMERS_FILES = ("model.safetensors", "pytorch_model.bin")
_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class ClipFolder:
    """An image encoder in a folder.

    Attributes:
      module: the encoder.
      file: its weights.
      is_open_clip: whether they are named as OpenCLIP's, or as transformers'.
      mean, std: of the normalisation of pixels in [0, 1].
    """

    module: ClipImage
    file: Path
    is_open_clip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_clip_folder(folder: Path) -> ClipFolder:
    """Read the configs in `folder`; OpenCLIP's where there are both.

    Raises:
      FileNotFoundError: a config or the weights are missing.
      ValueError: a config is damaged, or describes no vision transformer of CLIP.
    """
    if (folder / "open_clip_config.json").is_file():
        return _open_clip(folder)
    return _transformers(folder)


def _transformers(folder: Path) -> ClipFolder:
    config = _read_json(folder / "config.json")
    vision = config.get("vision_config") or config
    with _naming_what_lacks(folder / "config.json"):
        module = _module(
            width=vision["hidden_size"],
            num_layers=vision["num_hidden_layers"],
            num_heads=vision["num_attention_heads"],
            patch_size=vision["patch_size"],
            image_size=vision["image_size"],
            embed_dim=config.get("projection_dim") or vision["projection_dim"],
            activation=vision.get("hidden_act", "quick_gelu"),
            inner=vision["intermediate_size"],
        )
    processor = folder / "preprocessor_config.json"
    images = _read_json(processor) if processor.is_file() else {}
    mean, std = images.get("image_mean", MEAN), images.get("image_std", STD)
    file = _weights_file(folder, _TRANSFORMERS_FILES)
    return ClipFolder(module, file, False, tuple(mean), tuple(std))


def _open_clip(folder: Path) -> ClipFolder:
    config = _read_json(folder / "open_clip_config.json")
    with _naming_what_lacks(folder / "open_clip_config.json"):
        model = config["model_cfg"]
        vision = model["vision_cfg"]
        width = vision["width"]
        module = _module(
            width=width,
            num_layers=vision["layers"],
            num_heads=width // vision.get("head_width", 64),
            patch_size=vision["patch_size"],
            image_size=vision["image_size"],
            embed_dim=model["embed_dim"],
            activation="quick_gelu" if model.get("quick_gelu") else "gelu",
            inner=int(width * vision.get("mlp_ratio", 4)),
        )
    images = config.get("preprocess_cfg", {})
    mean, std = images.get("mean", MEAN), images.get("std", STD)
    file = _weights_file(folder, _OPEN_CLIP_FILES)
    return ClipFolder(module, file, True, tuple(mean), tuple(std))


def _module(*, inner: int, **fields: Any) -> ClipImage:
    if (
        fields["activation"] not in ("gelu", "quick_gelu")
        or inner != 4 * fields["width"]
    ):
        raise ValueError(
            f"an image encoder with activation {fields['activation']!r} and feed-forward "
            f"width {inner} is not supported: give a CLIP with gelu or quick_gelu whose "
            f"feed-forward layers are four times {fields['width']} wide"
        )
    return ClipImage(**fields)


def _weights_file(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"no weights in {folder}: put {' or '.join(names)} there, in one file"
    )


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(
            f"no {file.name} in {file.parent}: give a folder of transformers or OpenCLIP"
        )
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is no JSON object ({error}): get it again") from error


@contextlib.contextmanager
def _naming_what_lacks(file: Path) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise ValueError(
            f"{file} has no {error}: give the config of a CLIP model with a vision "
            "transformer and a projection"
        ) from error
