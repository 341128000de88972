"""Names of the text encoders in diffusers' folders.

`text_encoder/` holds transformers' `CLIPTextModel` (or `CLIPTextModelWithProjection`, for
`ClipText(output="pooled")`), `bert/` diffusers' own `LDMBertModel`.
"""

from collections.abc import Mapping
from typing import TypeVar

Rules = tuple[tuple[str, str], ...]
Array = TypeVar("Array")

_CLIP_LAYER = r"text_model\.encoder\.layers\.(\d+)"

CLIP_TEXT_RULES: Rules = (
    (r"text_model\.embeddings\.token_embedding", "encoder/token_embedding"),
    (r"text_model\.embeddings\.position_embedding", "encoder/position_embedding"),
    (_CLIP_LAYER + r"\.layer_norm1", "encoder/block_{0}/norm1"),
    (_CLIP_LAYER + r"\.self_attn\.q_proj", "encoder/block_{0}/self_attention/query"),
    (_CLIP_LAYER + r"\.self_attn\.k_proj", "encoder/block_{0}/self_attention/key"),
    (_CLIP_LAYER + r"\.self_attn\.v_proj", "encoder/block_{0}/self_attention/value"),
    (_CLIP_LAYER + r"\.self_attn\.out_proj", "encoder/block_{0}/self_attention/out"),
    (_CLIP_LAYER + r"\.layer_norm2", "encoder/block_{0}/norm2"),
    (_CLIP_LAYER + r"\.mlp\.fc1", "encoder/block_{0}/feed_forward/proj_in"),
    (_CLIP_LAYER + r"\.mlp\.fc2", "encoder/block_{0}/feed_forward/proj_out"),
    (r"text_model\.final_layer_norm", "encoder/norm_out"),
    (r"text_projection", "projection"),
)

_BERT_LAYER = r"model\.layers\.(\d+)"

LDM_BERT_RULES: Rules = (
    (r"model\.embed_tokens", "encoder/token_embedding"),
    (r"model\.embed_positions", "encoder/position_embedding"),
    (_BERT_LAYER + r"\.self_attn_layer_norm", "encoder/block_{0}/norm1"),
    (_BERT_LAYER + r"\.self_attn\.q_proj", "encoder/block_{0}/self_attention/query"),
    (_BERT_LAYER + r"\.self_attn\.k_proj", "encoder/block_{0}/self_attention/key"),
    (_BERT_LAYER + r"\.self_attn\.v_proj", "encoder/block_{0}/self_attention/value"),
    (_BERT_LAYER + r"\.self_attn\.out_proj", "encoder/block_{0}/self_attention/out"),
    (_BERT_LAYER + r"\.final_layer_norm", "encoder/block_{0}/norm2"),
    (_BERT_LAYER + r"\.fc1", "encoder/block_{0}/feed_forward/proj_in"),
    (_BERT_LAYER + r"\.fc2", "encoder/block_{0}/feed_forward/proj_out"),
    (r"model\.layer_norm", "encoder/norm_out"),
)

# Tensors that no parameter of ours takes: (regular expression of the name, why).
CLIP_TEXT_KNOWN = (
    (r"text_model\.embeddings\.position_ids", "the numbers 0, 1, 2, ..."),
)
LDM_BERT_KNOWN = ((r"to_logits\.(weight|bias)", "an output layer nothing calls"),)

_BARE = ("embeddings.", "encoder.", "final_layer_norm.")


def with_text_model_prefix(state: Mapping[str, Array]) -> dict[str, Array]:
    """`state` with the names of published folders, whichever version wrote it.

    transformers 5 saves a `CLIPTextModel` without the prefix `text_model.` of versions
    before, and reads both.
    """
    return {
        f"text_model.{name}" if name.startswith(_BARE) else name: array
        for name, array in state.items()
    }
