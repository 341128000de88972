"""Names of the CompVis denoiser, relative to `model.diffusion_model.`.

There a U-Net is three flat lists whose indices depend on the topology; here levels and
blocks are numbered by resolution (level 0 = latent size), so the rules are computed
from the same description that builds the network. With R blocks a level and L levels:

| torch                                        | ours                          |
|----------------------------------------------|-------------------------------|
| `input_blocks.0`                             | `conv_in`                     |
| `input_blocks.<l*(R+1) + i + 1>`             | `down_<l>/block_<i>` (`.0`)   |
| the same                                     | `down_<l>/attention_<i>` (`.1`) |
| `input_blocks.<(l+1)*(R+1)>`                 | `down_<l>/downsample`         |
| `middle_block.0`, `.2`                       | `mid/block_0`, `mid/block_1`  |
| `middle_block.1`                             | `mid/attention`               |
| `output_blocks.<(L-1-l)*(R+1) + i>`          | `up_<l>/block_<i>`, likewise  |
| last entry of the last block of `up_<l>`     | `up_<l>/upsample`             |
"""

from typing import Any

from ldm_jax.backbones.unet import UNet
from ldm_jax.interop.rename import Rule

Rules = tuple[Rule, ...]

# Ranks of torch weights that are dense layers here; see `interop.rename`.
_CONV1D = 3

# Inside a residual block, also one that resamples.
_RESNET = (
    (r"in_layers\.0", "norm1"),
    (r"in_layers\.2", "conv1"),
    (r"emb_layers\.1", "time_proj"),
    (r"out_layers\.0", "norm2"),
    (r"out_layers\.3", "conv2"),
    (r"skip_connection", "shortcut"),
)

_PLAIN_ATTENTION = (
    (r"norm", "norm"),
    (r"qkv", "qkv", _CONV1D),
    (r"proj_out", "proj_out", _CONV1D),
)

_TRANSFORMER = (
    (r"norm", "norm"),
    (r"proj_in", "proj_in"),
    (r"transformer_blocks\.(\d+)\.norm1", "block_{0}/norm1"),
    (r"transformer_blocks\.(\d+)\.attn1\.to_q", "block_{0}/self_attention/query"),
    (r"transformer_blocks\.(\d+)\.attn1\.to_k", "block_{0}/self_attention/key"),
    (r"transformer_blocks\.(\d+)\.attn1\.to_v", "block_{0}/self_attention/value"),
    (r"transformer_blocks\.(\d+)\.attn1\.to_out\.0", "block_{0}/self_attention/out"),
    (r"transformer_blocks\.(\d+)\.norm2", "block_{0}/norm2"),
    (r"transformer_blocks\.(\d+)\.attn2\.to_q", "block_{0}/cross_attention/query"),
    (r"transformer_blocks\.(\d+)\.attn2\.to_k", "block_{0}/cross_attention/key"),
    (r"transformer_blocks\.(\d+)\.attn2\.to_v", "block_{0}/cross_attention/value"),
    (r"transformer_blocks\.(\d+)\.attn2\.to_out\.0", "block_{0}/cross_attention/out"),
    (r"transformer_blocks\.(\d+)\.norm3", "block_{0}/norm3"),
    (r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj", "block_{0}/feed_forward/proj_in"),
    (r"transformer_blocks\.(\d+)\.ff\.net\.2", "block_{0}/feed_forward/proj_out"),
    (r"proj_out", "proj_out"),
)

_STEM_AND_HEAD = (
    (r"time_embed\.0", "time_embed/dense_0"),
    (r"time_embed\.2", "time_embed/dense_1"),
    (r"input_blocks\.0\.0", "conv_in"),
    (r"out\.0", "norm_out"),
    (r"out\.2", "conv_out"),
)


def unet_rules(unet: UNet) -> Rules:
    """Rename rules for the weights of `unet`; see `interop.rename`.

    Each pattern is literal but for the index of a transformer block, so that the rules
    can be read backwards.
    """
    attention = _PLAIN_ATTENTION if unet.attention == "plain" else _TRANSFORMER
    rules = list(_STEM_AND_HEAD)
    rules += _under("middle_block.0", "mid/block_0", _RESNET)
    rules += _under("middle_block.1", "mid/attention", attention)
    rules += _under("middle_block.2", "mid/block_1", _RESNET)
    num_levels = len(unet.channel_mult)
    for level in range(num_levels):
        rules += _down_rules(unet, level, attention)
        rules += _up_rules(unet, level, attention)
    return tuple(rules)


def _down_rules(unet: UNet, level: int, attention: Rules) -> list[Rule]:
    first = level * (unet.num_res_blocks + 1) + 1
    rules = []
    for i in range(unet.num_res_blocks):
        torch_block, ours = f"input_blocks.{first + i}", f"down_{level}"
        rules += _under(f"{torch_block}.0", f"{ours}/block_{i}", _RESNET)
        if unet.has_attention(level):
            rules += _under(f"{torch_block}.1", f"{ours}/attention_{i}", attention)
    if level < len(unet.channel_mult) - 1:
        torch_block = f"input_blocks.{first + unet.num_res_blocks}.0"
        inner = _resampler_rules(unet, "op")
        rules += _under(torch_block, f"down_{level}/downsample", inner)
    return rules


def _up_rules(unet: UNet, level: int, attention: Rules) -> list[Rule]:
    num_blocks = unet.num_res_blocks + 1
    first = (len(unet.channel_mult) - 1 - level) * num_blocks
    rules = []
    for i in range(num_blocks):
        torch_block, ours = f"output_blocks.{first + i}", f"up_{level}"
        rules += _under(f"{torch_block}.0", f"{ours}/block_{i}", _RESNET)
        if unet.has_attention(level):
            rules += _under(f"{torch_block}.1", f"{ours}/attention_{i}", attention)
    if level > 0:
        position = 2 if unet.has_attention(level) else 1
        torch_block = f"output_blocks.{first + num_blocks - 1}.{position}"
        inner = _resampler_rules(unet, "conv")
        rules += _under(torch_block, f"up_{level}/upsample", inner)
    return rules


def _resampler_rules(unet: UNet, conv_name: str) -> Rules:
    if unet.resampling == "resblock":
        return _RESNET
    return ((conv_name, "conv"),)


def _under(torch_prefix: str, our_prefix: str, inner: Rules) -> list[Rule]:
    escaped = torch_prefix.replace(".", r"\.")
    rules: list[Any] = [
        (rf"{escaped}\.{old}", f"{our_prefix}/{new}", *rank)
        for old, new, *rank in inner
    ]
    return rules
