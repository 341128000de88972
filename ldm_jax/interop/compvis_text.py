"""Names of the published text and layout encoders, relative to `cond_stage_model.`.

- The token transformer (x-transformers): attention and feed-forward are numbered in one
  sequence, so block i is layers 2i and 2i + 1.
- Stable Diffusion 1: transformers' CLIP under `transformer.`.
- Stable Diffusion 2: OpenCLIP under `model.`, query, key and value fused; read it through
  `split_in_proj`, write it through `join_in_proj`. OpenAI's own CLIP files have the same
  names without `model.`.

`compvis.KNOWN` lists what these files hold besides.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.conditioners import ClipText
from ldm_jax.interop.diffusers_text import CLIP_TEXT_RULES, Rules
from ldm_jax.lazy_array import LazyArray, read_array

State = Mapping[str, Any]  # name -> array, or what has a shape, a dtype and `read`

_ATTENTION = (
    (r"0", "norm1"),
    (r"1\.to_q", "self_attention/query"),
    (r"1\.to_k", "self_attention/key"),
    (r"1\.to_v", "self_attention/value"),
    (r"1\.to_out", "self_attention/out"),
)
_FEED_FORWARD = (
    (r"0", "norm2"),
    (r"1\.net\.0\.0", "feed_forward/proj_in"),
    (r"1\.net\.2", "feed_forward/proj_out"),
)

HF_CLIP_RULES: Rules = tuple(
    (rf"transformer\.{theirs}", ours)
    for theirs, ours in CLIP_TEXT_RULES
    if theirs.startswith("text_model")
)

_RESBLOCK = r"model\.transformer\.resblocks\.(\d+)"
_IN_PROJ = _RESBLOCK + r"\.attn\.in_proj"

OPEN_CLIP_RULES: Rules = (
    (r"model\.token_embedding", "encoder/token_embedding"),
    (r"model\.positional_embedding", "encoder/position_embedding/embedding"),
    (_RESBLOCK + r"\.ln_1", "encoder/block_{0}/norm1"),
    (_IN_PROJ + r"\.query", "encoder/block_{0}/self_attention/query"),
    (_IN_PROJ + r"\.key", "encoder/block_{0}/self_attention/key"),
    (_IN_PROJ + r"\.value", "encoder/block_{0}/self_attention/value"),
    (_RESBLOCK + r"\.attn\.out_proj", "encoder/block_{0}/self_attention/out"),
    (_RESBLOCK + r"\.ln_2", "encoder/block_{0}/norm2"),
    (_RESBLOCK + r"\.mlp\.c_fc", "encoder/block_{0}/feed_forward/proj_in"),
    (_RESBLOCK + r"\.mlp\.c_proj", "encoder/block_{0}/feed_forward/proj_out"),
    (r"model\.ln_final", "encoder/norm_out"),
)

_PARTS = ("query", "key", "value")
_LEAVES = ("weight", "bias")


def token_transformer_rules(num_layers: int) -> Rules:
    """Rules for a `TokenTransformer` of `num_layers` blocks."""
    rules = [
        (r"transformer\.token_emb", "encoder/token_embedding"),
        (r"transformer\.pos_emb\.emb", "encoder/position_embedding"),
        (r"transformer\.norm", "encoder/norm_out"),
    ]
    for block in range(num_layers):
        for layer, inner in ((2 * block, _ATTENTION), (2 * block + 1, _FEED_FORWARD)):
            prefix = rf"transformer\.attn_layers\.layers\.{layer}\."
            rules += [
                (prefix + old, f"encoder/block_{block}/{new}") for old, new in inner
            ]
    return tuple(rules)


def clip_text_rules(conditioner: ClipText) -> Rules:
    """Rules for the checkpoint format that the encoder's family is published in.

    OpenCLIP's encoders have the exact gelu, OpenAI's the quick one. An encoder without
    Stable Diffusion 2's unused block fits as well: the original never calls that block.
    """
    return OPEN_CLIP_RULES if conditioner.activation == "gelu" else HF_CLIP_RULES


def split_in_proj(state: State) -> dict[str, Any]:
    """`<path>.in_proj_{weight,bias}` as `<path>.in_proj.{query,key,value}.{weight,bias}`.

    Args:
      state: tensors in torch layout, under any prefix; lazy ones are not read. Those
        whose length is not a multiple of three stay as they are.
    """
    split = dict(state)
    for name, fused in state.items():
        path, _, last = name.rpartition(".in_proj_")
        is_fused = bool(path) and last in _LEAVES and len(fused.shape) > 0
        if not is_fused or fused.shape[0] % 3:
            continue
        del split[name]
        shape = (fused.shape[0] // 3, *fused.shape[1:])
        for index, part in enumerate(_PARTS):
            read = functools.partial(_third, fused, index)
            array = LazyArray(shape, np.dtype(fused.dtype), read)
            split[f"{path}.in_proj.{part}.{last}"] = array
    return split


def join_in_proj(state: State) -> dict[str, Any]:
    """The inverse of `split_in_proj`.

    Raises:
      ValueError: names what is missing where there is not a query, a key and a value.
    """
    joined = dict(state)
    for name in state:
        path, _, rest = name.rpartition(".in_proj.")
        last = rest.rpartition(".")[2]
        fused = f"{path}.in_proj_{last}"
        if not path or fused in joined:
            continue
        names = [f"{path}.in_proj.{part}.{last}" for part in _PARTS]
        for part in names:
            if part not in state:
                raise ValueError(
                    f"{part} is missing, so {fused} cannot be put together: "
                    "export a whole text encoder"
                )
        parts = [joined.pop(part) for part in names]
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        read = functools.partial(_concatenated, parts)
        joined[fused] = LazyArray(shape, np.dtype(parts[0].dtype), read)
    return joined


def _third(fused: Any, index: int) -> np.ndarray:
    return np.split(read_array(fused), 3)[index]


def _concatenated(parts: Sequence[Any]) -> np.ndarray:
    return np.concatenate([read_array(part) for part in parts])
