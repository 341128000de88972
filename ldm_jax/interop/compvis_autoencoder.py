"""Names of the published first stages (without any `first_stage_model.` prefix).

The rules do not depend on the topology. Names under `loss.` (discriminator, LPIPS) match
no rule and come back as unused.
"""

from collections.abc import Iterator

from ldm_jax.interop.rename import Rule

_CONV = 4  # rank of a 1x1 convolution, which is a dense layer here


def _side_rules(side: str, stage: str, resampler: str) -> Iterator[Rule]:
    """Of the encoder (levels `down`) or the decoder (`up`)."""
    level, ours = rf"{side}\.{stage}\.(\d+)", f"{side}/{stage}_{{0}}"
    block, our_block = rf"{level}\.block\.(\d+)", f"{ours}/block_{{1}}"
    attention, our_attention = rf"{level}\.attn\.(\d+)", f"{ours}/attn_{{1}}"
    for name in ("norm1", "conv1", "norm2", "conv2"):
        yield rf"{block}\.{name}", f"{our_block}/{name}"
        for part in ("block_1", "block_2"):
            yield rf"{side}\.mid\.{part}\.{name}", f"{side}/mid/{part}/{name}"
    yield rf"{block}\.nin_shortcut", f"{our_block}/shortcut", _CONV
    yield rf"{attention}\.norm", f"{our_attention}/norm"
    yield rf"{side}\.mid\.attn_1\.norm", f"{side}/mid/attn_1/norm"
    for name in ("q", "k", "v", "proj_out"):
        yield rf"{attention}\.{name}", f"{our_attention}/{name}", _CONV
        yield rf"{side}\.mid\.attn_1\.{name}", f"{side}/mid/attn_1/{name}", _CONV
    yield rf"{level}\.{resampler}\.conv", f"{ours}/{resampler}/conv"
    for name in ("conv_in", "norm_out", "conv_out"):
        yield rf"{side}\.{name}", f"{side}/{name}"


AUTOENCODER_RULES: tuple[Rule, ...] = (
    *_side_rules("encoder", "down", "downsample"),
    *_side_rules("decoder", "up", "upsample"),
    (r"quant_conv", "quant_conv", _CONV),
    (r"post_quant_conv", "post_quant_conv", _CONV),
    (r"quantize\.embedding", "quantizer"),
)
