"""diffusers' UNet2DModel and UNet2DConditionModel: names of their weights.

Blocks are counted from the input on the way down and from the middle on the way up;
here levels count by resolution (0 = latent size) both ways, so with L levels:

| diffusers                               | ours                     |
|-----------------------------------------|--------------------------|
| `down_blocks.<l>.resnets.<i>`           | `down_<l>/block_<i>`     |
| `down_blocks.<l>.attentions.<i>`        | `down_<l>/attention_<i>` |
| `down_blocks.<l>.downsamplers.0`        | `down_<l>/downsample`    |
| `mid_block.resnets.<i>`, `.attentions.0`| `mid/block_<i>`, `mid/attention` |
| `up_blocks.<L-1-l>.resnets.<i>`, likewise | `up_<l>/block_<i>`     |

Plain attention is joined and split by `interop.diffusers_attention`; the layers to join
are `plain_attention_heads`.
"""

from ldm_jax.backbones.unet import UNet

Rules = tuple[tuple[str, str], ...]

_RESNET = (
    (r"norm1", "norm1"),
    (r"conv1", "conv1"),
    (r"time_emb_proj", "time_proj"),
    (r"norm2", "norm2"),
    (r"conv2", "conv2"),
    (r"conv_shortcut", "shortcut"),
)

_PLAIN_ATTENTION = (
    (r"group_norm", "norm"),
    (r"qkv", "qkv"),
    (r"to_out\.0", "proj_out"),
)

_BLOCK = r"transformer_blocks\.(\d+)"
_SELF, _CROSS = rf"{_BLOCK}\.attn1", rf"{_BLOCK}\.attn2"

# `{n}` is the index of the transformer block, numbered by `_rules_under`.
_TRANSFORMER = (
    (r"norm", "norm"),
    (r"proj_in", "proj_in"),
    (rf"{_BLOCK}\.norm1", "block_{n}/norm1"),
    (rf"{_SELF}\.to_q", "block_{n}/self_attention/query"),
    (rf"{_SELF}\.to_k", "block_{n}/self_attention/key"),
    (rf"{_SELF}\.to_v", "block_{n}/self_attention/value"),
    (rf"{_SELF}\.to_out\.0", "block_{n}/self_attention/out"),
    (rf"{_BLOCK}\.norm2", "block_{n}/norm2"),
    (rf"{_CROSS}\.to_q", "block_{n}/cross_attention/query"),
    (rf"{_CROSS}\.to_k", "block_{n}/cross_attention/key"),
    (rf"{_CROSS}\.to_v", "block_{n}/cross_attention/value"),
    (rf"{_CROSS}\.to_out\.0", "block_{n}/cross_attention/out"),
    (rf"{_BLOCK}\.norm3", "block_{n}/norm3"),
    (rf"{_BLOCK}\.ff\.net\.0\.proj", "block_{n}/feed_forward/proj_in"),
    (rf"{_BLOCK}\.ff\.net\.2", "block_{n}/feed_forward/proj_out"),
    (r"proj_out", "proj_out"),
)

_STEM_AND_HEAD = (
    (r"time_embedding\.linear_1", "time_embed/dense_0"),
    (r"time_embedding\.linear_2", "time_embed/dense_1"),
    (r"conv_in", "conv_in"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_out", "conv_out"),
)


def diffusers_unet_rules(unet: UNet) -> Rules:
    """Rename rules for the weights of `unet`; see `interop.rename`.

    With plain attention they apply after `join_qkv`, and before `split_qkv`.
    """
    attention = _PLAIN_ATTENTION if unet.attention == "plain" else _TRANSFORMER
    rules = list(_STEM_AND_HEAD)
    rules += _rules_under(r"mid_block\.resnets\.(\d+)", "mid/block_{0}", _RESNET)
    rules += _rules_under(r"mid_block\.attentions\.0", "mid/attention", attention)
    last = len(unet.channel_mult) - 1
    for level in range(last + 1):
        sides = [(rf"down_blocks\.{level}", f"down_{level}", "down", level < last)]
        sides += [(rf"up_blocks\.{last - level}", f"up_{level}", "up", level > 0)]
        for torch, ours, way, resamples in sides:
            blocks, attentions = rf"{torch}\.resnets\.(\d+)", f"{ours}/attention_{{0}}"
            rules += _rules_under(blocks, f"{ours}/block_{{0}}", _RESNET)
            if unet.has_attention(level):
                layers = rf"{torch}\.attentions\.(\d+)"
                rules += _rules_under(layers, attentions, attention)
            if resamples:
                inner = (
                    _RESNET if unet.resampling == "resblock" else (("conv", "conv"),)
                )
                layer = rf"{torch}\.{way}samplers\.0"
                rules += _rules_under(layer, f"{ours}/{way}sample", inner)
    return tuple(rules)


def plain_attention_heads(unet: UNet) -> dict[str, int]:
    """Number of heads by the path of each plain attention layer; empty for transformers."""
    if unet.attention != "plain":
        return {}
    last = len(unet.channel_mult) - 1
    heads = {"mid_block.attentions.0": heads_at(unet, last)}
    for level in filter(unet.has_attention, range(last + 1)):
        for i in range(unet.num_res_blocks):
            heads[f"down_blocks.{level}.attentions.{i}"] = heads_at(unet, level)
        for i in range(unet.num_res_blocks + 1):
            heads[f"up_blocks.{last - level}.attentions.{i}"] = heads_at(unet, level)
    return heads


def heads_at(unet: UNet, level: int) -> int:
    """Number of attention heads at a level; a level without attention has them in name."""
    width = unet.model_channels * unet.channel_mult[level]
    return unet.num_heads or width // (unet.num_head_channels or width)


def _rules_under(torch_prefix: str, our_prefix: str, inner: Rules) -> Rules:
    n = "{" + str(torch_prefix.count("(")) + "}"
    return tuple(
        (rf"{torch_prefix}\.{old}", f"{our_prefix}/{new.replace('{n}', n)}")
        for old, new in inner
    )
