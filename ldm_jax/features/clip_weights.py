"""CLIP's image encoder from a folder of transformers or OpenCLIP."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ldm_jax import trees
from ldm_jax.features import search
from ldm_jax.features.base import FeatureNetwork, in_float32
from ldm_jax.features.clip_folder import ClipFolder, read_clip_folder
from ldm_jax.features.clip_image import clip_features
from ldm_jax.features.weight_files import checked, read_state_dict, sha256

State = Mapping[str, np.ndarray]
# Number of blocks to the torch name of each of our parameters.
Names = Callable[[int], dict[str, str]]

_PARTS = ("query", "key", "value")

# (our layer, transformers' layer, OpenCLIP's layer) of one block; in_proj holds the rest.
_BLOCK = (
    ("norm1", "layer_norm1", "ln_1"),
    ("self_attention/out", "self_attn.out_proj", "attn.out_proj"),
    ("norm2", "layer_norm2", "ln_2"),
    ("feed_forward/proj_in", "mlp.fc1", "mlp.c_fc"),
    ("feed_forward/proj_out", "mlp.fc2", "mlp.c_proj"),
)


def find_clip(path: str | os.PathLike | None = None) -> FeatureNetwork:
    """CLIP's image encoder; there is no default one, so `path` must be given.

    Args:
      path: a folder of transformers (`CLIPModel`, `CLIPVisionModelWithProjection`) or of
        OpenCLIP: the config beside .safetensors or .bin weights.

    Raises:
      FileNotFoundError: no path, no such folder, or a file is missing in it.
      ValueError: a file is damaged, or the encoder is not a vision transformer of CLIP.
    """
    if not path:
        raise search.WeightsNotFoundError(
            "no CLIP weights: give the path of a folder as transformers' "
            "CLIPVisionModelWithProjection.save_pretrained writes it, or of OpenCLIP's"
        )
    folder = search.existing("CLIP weights", path)
    found = read_clip_folder(folder)
    names = _open_clip_names if found.is_open_clip else _transformers_names
    state = read_state_dict(found.file, prefixes=("vision_model.", "visual"))
    apply = functools.partial(
        clip_features, found.module, mean=found.mean, std=found.std
    )
    return FeatureNetwork(
        name="clip",
        params=_params(found, _split_in_proj(state), names),
        apply=in_float32(apply),
        weights_sha256=sha256(found.file),
        preprocessing=f"bicubic resize of the shorter side to {found.module.image_size}, "
        f"rounded, centre crop, (x / 255 - {list(found.mean)}) / {list(found.std)}",
    )


def _params(found: ClipFolder, state: State, names: Names) -> dict[str, Any]:
    size = found.module.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    tree = jax.eval_shape(found.module.init, jax.random.key(0), image)["params"]
    shapes = {name: leaf.shape for name, leaf in trees.flatten(tree).items()}
    flat = {}
    for name, torch_name in names(found.module.num_layers).items():
        if torch_name in state:
            flat[name] = _our_layout(name, torch_name, state[torch_name])
    question = "does config.json describe these weights?"
    return checked(flat, shapes, f"CLIP weights {found.file}", question)


def _our_layout(name: str, torch_name: str, value: np.ndarray) -> np.ndarray:
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    # OpenCLIP's projection is a plain matrix, not a linear layer.
    is_layer = name.endswith("/kernel") and torch_name.endswith(".weight")
    return value.T if is_layer else value


def _transformers_names(num_layers: int) -> dict[str, str]:
    """transformers' name of each of our parameters."""
    prefix = "vision_model."
    names = {
        "class_embedding": f"{prefix}embeddings.class_embedding",
        "patch_embedding/kernel": f"{prefix}embeddings.patch_embedding.weight",
        "position_embedding/embedding": f"{prefix}embeddings.position_embedding.weight",
        **_layer("norm_in", f"{prefix}pre_layrnorm"),  # so spelt
        **_layer("norm_out", f"{prefix}post_layernorm"),
        "projection/kernel": "visual_projection.weight",
    }
    for index in range(num_layers):
        block = f"{prefix}encoder.layers.{index}."
        for ours, theirs, _ in _BLOCK:
            names |= _layer(f"block_{index}/{ours}", block + theirs)
        for part in _PARTS:
            ours = f"block_{index}/self_attention/{part}"
            names |= _layer(ours, f"{block}self_attn.{part[0]}_proj")
    return names


def _open_clip_names(num_layers: int) -> dict[str, str]:
    """OpenCLIP's name of each of our parameters, query, key and value split."""
    prefix = "visual."
    names = {
        "class_embedding": f"{prefix}class_embedding",
        "patch_embedding/kernel": f"{prefix}conv1.weight",
        "position_embedding/embedding": f"{prefix}positional_embedding",
        **_layer("norm_in", f"{prefix}ln_pre"),
        **_layer("norm_out", f"{prefix}ln_post"),
        "projection/kernel": f"{prefix}proj",
    }
    for index in range(num_layers):
        block = f"{prefix}transformer.resblocks.{index}."
        for ours, _, theirs in _BLOCK:
            names |= _layer(f"block_{index}/{ours}", block + theirs)
        for part in _PARTS:
            ours = f"block_{index}/self_attention/{part}"
            names |= _layer(ours, f"{block}attn.{part}")
    return names


def _layer(ours: str, theirs: str) -> dict[str, str]:
    weight = "scale" if "norm" in ours.rpartition("/")[2] else "kernel"
    return {f"{ours}/{weight}": f"{theirs}.weight", f"{ours}/bias": f"{theirs}.bias"}


def _split_in_proj(state: State) -> State:
    """OpenCLIP's fused `attn.in_proj_weight` as three layers."""
    split = dict(state)
    for name in state:
        path, _, last = name.rpartition(".in_proj_")
        if path:
            thirds = np.split(split.pop(name), 3)
            split |= {
                f"{path}.{part}.{last}": third
                for part, third in zip(_PARTS, thirds, strict=True)
            }
    return split
