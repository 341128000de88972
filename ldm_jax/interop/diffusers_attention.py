"""Plain attention in diffusers' folders: old names, and separate against joint projections.

diffusers keeps query, key and value apart (`to_q`, `to_k`, `to_v`); the denoiser's plain
attention here has one projection whose outputs are ordered head, then query/key/value,
then channel, as in the published checkpoints. State dicts here are of lazy arrays, and
nothing is read before the result is.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from ldm_jax.lazy_array import LazyArray

State = Mapping[str, LazyArray]

# Until version 0.11 diffusers wrote the names on the left.
_OLD_NAMES = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}
_PARTS = ("to_q", "to_k", "to_v")


def rename_old_attention(state: State) -> dict[str, LazyArray]:
    """`state` with the names that diffusers gives to attention layers since 0.12."""

    def new_name(name: str) -> str:
        parent, _, last = name.rpartition(".")
        path, _, layer = parent.rpartition(".")
        if ".attentions." not in f".{path}." or layer not in _OLD_NAMES:
            return name
        return f"{path}.{_OLD_NAMES[layer]}.{last}"

    return {new_name(name): array for name, array in state.items()}


def join_qkv(state: State, num_heads: Mapping[str, int]) -> dict[str, LazyArray]:
    """`<path>.to_{q,k,v}.*` as `<path>.qkv.*` for every attention layer given.

    Args:
      state: linear weights [c, c], or [c, c, 1, 1] in old files, and biases [c].
      num_heads: by the path of the layer. Layers of which a tensor is missing stay
        as they are.
    """
    joined = dict(state)
    for path, heads in num_heads.items():
        for leaf in ("weight", "bias"):
            names = [f"{path}.{part}.{leaf}" for part in _PARTS]
            if not all(name in state for name in names):
                continue
            parts = [joined.pop(name) for name in names]
            c, *rest = parts[0].shape[:2]
            read = functools.partial(_join, parts, heads)
            joint = LazyArray((3 * c, *rest), parts[0].dtype, read)
            joined[f"{path}.qkv.{leaf}"] = joint
    return joined


def split_qkv(state: State, num_heads: Mapping[str, int]) -> dict[str, LazyArray]:
    """The inverse of `join_qkv`."""
    split = dict(state)
    for path, heads in num_heads.items():
        for leaf in ("weight", "bias"):
            joint = split.pop(f"{path}.qkv.{leaf}", None)
            if joint is None:
                continue
            shape = (joint.shape[0] // 3, *joint.shape[1:])
            for index, part in enumerate(_PARTS):
                read = functools.partial(_split, joint, heads, index)
                array = LazyArray(shape, joint.dtype, read)
                split[f"{path}.{part}.{leaf}"] = array
    return split


def _join(parts: Sequence[LazyArray], heads: int) -> np.ndarray:
    c, *rest = parts[0].shape[:2]
    by_head = [part.read().reshape(heads, c // heads, *rest) for part in parts]
    return np.stack(by_head, axis=1).reshape(3 * c, *rest)


def _split(joint: LazyArray, heads: int, index: int) -> np.ndarray:
    value = joint.read()
    c = value.shape[0] // 3
    by_head = value.reshape(heads, 3, c // heads, *value.shape[1:])
    return by_head[:, index].reshape(c, *value.shape[1:])
