"""diffusers' AutoencoderKL and VQModel: names of their weights, and their `config.json`.

The blocks of the decoder are counted from the lowest resolution there, levels by
resolution here. Attention has separate projections on both sides; linear layers in
diffusers, 1x1 convolutions in files written before version 0.12.
"""

from collections.abc import Mapping
from typing import Any

from ldm_jax.autoencoders.base import Autoencoder
from ldm_jax.autoencoders.vq import VQAutoencoder
from ldm_jax.interop.diffusers_fields import (
    check_fields,
    uniform,
    unread_fields,
    unsupported,
)

KL, VQ = "AutoencoderKL", "VQModel"
RESOLUTION = 256  # nominal: it only says at which levels `attn_resolutions` fall

# (diffusers' name, ours, rank of the torch weight where it differs from our kernel's).
_RESNET = (
    (r"norm1", "norm1"),
    (r"conv1", "conv1"),
    (r"norm2", "norm2"),
    (r"conv2", "conv2"),
    (r"conv_shortcut", "shortcut", 4),
)
_ATTENTION = (
    (r"group_norm", "norm"),
    (r"to_q", "q"),
    (r"to_k", "k"),
    (r"to_v", "v"),
    (r"to_out\.0", "proj_out"),
)
_ACCEPTED = {
    "in_channels": (3,),
    "out_channels": (3,),
    "act_fn": ("silu", "swish"),
    "mid_block_add_attention": (True, False),
}
_ACCEPTED_KL = _ACCEPTED | {
    "shift_factor": (None, 0),
    "latents_mean": (None,),
    "latents_std": (None,),
    "use_quant_conv": (True,),
    "use_post_quant_conv": (True,),
}
_ACCEPTED_VQ = _ACCEPTED | {"norm_type": ("group",)}
_READ_ELSEWHERE = {
    "down_block_types", "up_block_types", "block_out_channels", "layers_per_block",
    "latent_channels", "norm_num_groups", "sample_size", "scaling_factor",
    "num_vq_embeddings", "vq_embed_dim", "force_upcast", "lookup_from_codebook",
}  # fmt: skip


def diffusers_autoencoder_rules(num_levels: int) -> tuple[tuple, ...]:
    """Rename rules for a first stage of `num_levels`; see `interop.rename`.

    They name attention as diffusers does since 0.12 (`rename_old_attention`).
    """
    rules: list[tuple] = []
    for half in ("encoder", "decoder"):
        for layer, ours in (
            ("conv_in", "conv_in"),
            ("conv_norm_out", "norm_out"),
            ("conv_out", "conv_out"),
        ):
            rules.append((rf"{half}\.{layer}", f"{half}/{ours}"))
        middle = rf"{half}\.mid_block"
        rules += _under(rf"{middle}\.resnets\.0", f"{half}/mid/block_1", _RESNET)
        rules += _under(rf"{middle}\.attentions\.0", f"{half}/mid/attn_1", _ATTENTION)
        rules += _under(rf"{middle}\.resnets\.1", f"{half}/mid/block_2", _RESNET)
    for level in range(num_levels):
        for torch, ours, way in (
            (rf"encoder\.down_blocks\.{level}", f"encoder/down_{level}", "down"),
            (rf"decoder\.up_blocks\.{num_levels - 1 - level}", f"decoder/up_{level}", "up"),
        ):  # fmt: skip
            blocks, layers = rf"{torch}\.resnets\.(\d+)", rf"{torch}\.attentions\.(\d+)"
            rules += _under(blocks, f"{ours}/block_{{0}}", _RESNET)
            rules += _under(layers, f"{ours}/attn_{{0}}", _ATTENTION)
            conv = rf"{torch}\.{way}samplers\.0\.conv"
            rules.append((conv, f"{ours}/{way}sample/conv"))
    rules += [(r"quant_conv", "quant_conv", 4), (r"quantize\.embedding", "quantizer")]
    rules.append((r"post_quant_conv", "post_quant_conv", 4))
    return tuple(rules)


def autoencoder_section(
    config: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], list[str]]:
    """(our autoencoder section, fields not looked at) of a first stage's `config.json`.

    Raises:
      ValueError: names a field whose value our first stages have no counterpart for.
    """
    kind = config["_class_name"]
    accepted = _ACCEPTED_KL if kind == KL else _ACCEPTED_VQ
    check_fields(config, accepted, where)
    widths = list(config.get("block_out_channels", (64,)))
    if any(width % widths[0] for width in widths):
        raise unsupported(
            where, "block_out_channels", widths, "multiples of the first width"
        )
    attends = _attending_levels(config, len(widths), where)
    latent_channels = config.get("latent_channels", 4 if kind == KL else 3)
    section = {
        "name": "kl" if kind == KL else "vq",
        "z_channels": latent_channels,
        "embed_dim": latent_channels,
        "ch": widths[0],
        "ch_mult": tuple(width // widths[0] for width in widths),
        "num_res_blocks": uniform(config, "layers_per_block", 1, where),
        "attn_resolutions": tuple(RESOLUTION // 2**level for level in attends),
        "resolution": RESOLUTION,
        "mid_attention": config.get("mid_block_add_attention", True),
        "num_groups": config.get("norm_num_groups", 32),
    }
    if kind == VQ:
        section["embed_dim"] = config.get("vq_embed_dim") or latent_channels
        section["num_embeddings"] = config.get("num_vq_embeddings", 256)
    return section, unread_fields(config, set(accepted) | _READ_ELSEWHERE)


def scaling_factor(config: Mapping[str, Any]) -> float:
    """What latents are multiplied by before diffusion.

    The published LDM folders with a VQModel do not say and mean 1; diffusers takes its
    default of 0.18215 for them and draws noise. An AutoencoderKL that does not say is
    Stable Diffusion's, or shares its default.
    """
    default = 0.18215 if config["_class_name"] == KL else 1.0
    return float(config.get("scaling_factor", default))


def autoencoder_config(
    autoencoder: Autoencoder, *, latent_scale: float, sample_size: int
) -> dict[str, Any]:
    """The `config.json` of a first stage of ours.

    Raises:
      ValueError: names a field that diffusers' first stages do not have.
    """
    levels = range(len(autoencoder.ch_mult))
    attends = [
        autoencoder.resolution // 2**level in autoencoder.attn_resolutions
        for level in levels
    ]

    def blocks(plain: str) -> list[str]:
        return [f"Attn{plain}" if attends[level] else plain for level in levels]

    config = {
        "in_channels": autoencoder.image_channels,
        "out_channels": autoencoder.image_channels,
        "down_block_types": blocks("DownEncoderBlock2D"),
        "up_block_types": blocks("UpDecoderBlock2D")[::-1],
        "block_out_channels": [autoencoder.ch * m for m in autoencoder.ch_mult],
        "layers_per_block": autoencoder.num_res_blocks,
        "act_fn": "silu",
        "latent_channels": autoencoder.z_channels,
        "norm_num_groups": autoencoder.num_groups,
        "sample_size": sample_size,
        "scaling_factor": latent_scale,
        "mid_block_add_attention": autoencoder.mid_attention,
    }
    if isinstance(autoencoder, VQAutoencoder):
        return {"_class_name": VQ} | config | {
            "num_vq_embeddings": autoencoder.num_embeddings,
            "vq_embed_dim": autoencoder.embed_dim,
        }  # fmt: skip
    if autoencoder.z_channels != autoencoder.embed_dim:
        raise ValueError(
            f"diffusers' AutoencoderKL has as many channels before quant_conv as after, "
            f"this first stage {autoencoder.z_channels} and {autoencoder.embed_dim}: "
            "export with --format=compvis"
        )
    return {"_class_name": KL, **config}


def _attending_levels(
    config: Mapping[str, Any], num_levels: int, where: str
) -> list[int]:
    """Levels with attention, lowest resolution first; both ways must agree."""
    found = []
    for field, plain, order in (
        ("down_block_types", "DownEncoderBlock2D", 1),
        ("up_block_types", "UpDecoderBlock2D", -1),
    ):
        types = config.get(field, (plain,))
        for value in types:
            if value not in (plain, f"Attn{plain}"):
                raise unsupported(where, field, value, f"{plain} or Attn{plain}")
        if len(types) != num_levels:
            raise unsupported(where, field, types, "one block for each width")
        found.append([name != plain for name in types][::order])
    if found[0] != found[1]:
        value = config["up_block_types"]
        raise unsupported(where, "up_block_types", value, "the mirror of the way down")
    return [level for level in reversed(range(num_levels)) if found[0][level]]


def _under(torch_prefix: str, our_prefix: str, inner: tuple) -> list[tuple]:
    return [
        (rf"{torch_prefix}\.{old}", f"{our_prefix}/{new}", *rank)
        for old, new, *rank in inner
    ]
