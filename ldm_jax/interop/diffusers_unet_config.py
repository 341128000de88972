"""diffusers' U-Net `config.json` <-> the fields of our `UNet`.

Two names mislead: in UNet2DConditionModel `attention_head_dim` is the NUMBER of heads
(one, or one for each level), in UNet2DModel it is the width of a head.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ldm_jax.backbones.unet import UNet
from ldm_jax.interop.diffusers_fields import (
    check_fields,
    uniform,
    unread_fields,
    unsupported,
)
from ldm_jax.interop.diffusers_unet import heads_at

PLAIN, CROSS = "UNet2DModel", "UNet2DConditionModel"

# Values that our U-Net computes, diffusers' default first.
_ACCEPTED = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "freq_shift": (0,),
    "flip_sin_to_cos": (True,),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (1,),
    "act_fn": ("silu", "swish"),
    "norm_eps": (1e-5,),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
}
_ACCEPTED_PLAIN = _ACCEPTED | {
    "mid_block_type": ("UNetMidBlock2D",),
    "add_attention": (True,),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
}
_ACCEPTED_CROSS = _ACCEPTED | {
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "only_cross_attention": (False,),
    "reverse_transformer_layers_per_block": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "num_attention_heads": (None,),
    "dual_cross_attention": (False,),
    "use_linear_projection": (False, True),
    "addition_embed_type": (None,),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
    "class_embeddings_concat": (False,),
    "mid_block_only_cross_attention": (None, False),
    "cross_attention_norm": (None,),
}

# Block types without direction: (has attention, resamples by residual blocks).
_BLOCKS = {
    PLAIN: {
        "{}Block2D": (False, False),
        "Resnet{}sampleBlock2D": (False, True),
        "Attn{}Block2D": (True, None),  # as downsample_type and upsample_type say
    },
    CROSS: {"{}Block2D": (False, False), "CrossAttn{}Block2D": (True, False)},
}
_DEFAULTS = {
    PLAIN: {
        "block_out_channels": (224, 448, 672, 896),
        "down_block_types": ("DownBlock2D", *["AttnDownBlock2D"] * 3),
        "up_block_types": (*["AttnUpBlock2D"] * 3, "UpBlock2D"),
        "in_channels": 3,
        "out_channels": 3,
    },
    CROSS: {
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        "in_channels": 4,
        "out_channels": 4,
    },
}
_READ_ELSEWHERE = {  # or without effect on what is computed
    "sample_size", "layers_per_block", "attention_head_dim", "norm_num_groups",
    "attn_norm_num_groups", "cross_attention_dim", "transformer_layers_per_block",
    "upcast_attention", "time_embedding_dim", "dropout", "num_train_timesteps",
    "addition_time_embed_dim", "projection_class_embeddings_input_dim",
    "addition_embed_type_num_heads",
}  # fmt: skip


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the sizes that it leaves to its class."""
    return _DEFAULTS[config["_class_name"]] | dict(config)


def unet_section(config: Mapping[str, Any], where: str) -> tuple[dict, list[str]]:
    """(our backbone section, fields that were not looked at) of a U-Net's `config.json`.

    Raises:
      ValueError: names a field whose value our U-Net has no counterpart for.
    """
    kind = config["_class_name"]
    config = with_defaults(config)
    accepted = _ACCEPTED_PLAIN if kind == PLAIN else _ACCEPTED_CROSS
    check_fields(config, accepted, where)
    widths = list(config["block_out_channels"])
    if any(width % widths[0] for width in widths):
        raise unsupported(
            where, "block_out_channels", widths, "multiples of the first width"
        )
    if config.get("time_embedding_dim") not in (None, 4 * widths[0]):
        value = config["time_embedding_dim"]
        raise unsupported(where, "time_embedding_dim", value, f"{4 * widths[0]}")
    attends, resampling = _topology(config, kind, where)
    film = config.get("resnet_time_scale_shift", "default") == "scale_shift"
    groups = config.get("norm_num_groups", 32)
    if groups is None:
        raise unsupported(where, "norm_num_groups", groups, "a number of groups")
    attention_groups = config.get("attn_norm_num_groups")
    if kind == PLAIN and attention_groups != groups and (film or attention_groups):
        raise unsupported(where, "attn_norm_num_groups", attention_groups, str(groups))
    section = {
        "name": "unet",
        "model_channels": widths[0],
        "channel_mult": tuple(width // widths[0] for width in widths),
        "num_res_blocks": uniform(config, "layers_per_block", 2, where),
        "attention_resolutions": tuple(
            2**level for level in reversed(range(len(widths))) if attends[level]
        ),
        "attention": "plain" if kind == PLAIN else "transformer",
        **_heads(config, kind, widths, where),
        "time_conditioning": "film" if film else "add",
        "resampling": resampling,
        "dropout": float(config.get("dropout", 0.0)),
        "num_groups": groups,
    }
    if kind == CROSS:
        depth = uniform(config, "transformer_layers_per_block", 1, where)
        linear = config.get("use_linear_projection", False)
        section["transformer_depth"] = depth
        section["transformer_projection"] = "linear" if linear else "conv"
    return section, unread_fields(
        config, set(accepted) | set(_DEFAULTS[kind]) | _READ_ELSEWHERE
    )


def unet_config(
    unet: UNet,
    *,
    in_channels: int,
    tokens_dim: int | None,
    sample_size: int,
) -> dict[str, Any]:
    """The `config.json` of a U-Net of ours.

    Args:
      unet: with its `out_channels`.
      in_channels: of the noisy latent and what is joined to it.
      tokens_dim: width of the tokens; None for plain attention.
      sample_size: side of the latents it was trained on.

    Raises:
      ValueError: names a field that no diffusers U-Net has.
    """
    kind = PLAIN if unet.attention == "plain" else CROSS
    if unet.attention_order != "legacy":
        raise _not_in_diffusers("attention_order", unet.attention_order)
    is_film = unet.time_conditioning == "film"
    config = {
        "_class_name": kind,
        "sample_size": sample_size,
        "in_channels": in_channels,
        "out_channels": unet.out_channels,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "down_block_types": _block_types(unet, kind, "Down"),
        "up_block_types": _block_types(unet, kind, "Up")[::-1],
        "block_out_channels": [unet.model_channels * m for m in unet.channel_mult],
        "layers_per_block": unet.num_res_blocks,
        "norm_num_groups": unet.num_groups,
        "norm_eps": 1e-5,
        "downsample_padding": 1,
        "dropout": unet.dropout,
        "resnet_time_scale_shift": "scale_shift" if is_film else "default",
        "attention_head_dim": _attention_head_dim(unet, kind),
    }
    if kind == PLAIN:
        resample_type = "resnet" if unet.resampling == "resblock" else "conv"
        config |= {"downsample_type": resample_type, "upsample_type": resample_type}
        # Without it diffusers leaves out the norm of the middle's attention under FiLM.
        config["attn_norm_num_groups"] = unet.num_groups
        return config
    return config | {
        "cross_attention_dim": tokens_dim,
        "transformer_layers_per_block": unet.transformer_depth,
        "use_linear_projection": unet.transformer_projection == "linear",
    }


def _block_types(unet: UNet, kind: str, way: str) -> list[str]:
    """The type of each level's block, from the largest grid to the smallest."""
    by_resblock = unet.resampling == "resblock"
    if unet.resampling == "pool" or (by_resblock and kind == CROSS):
        raise _not_in_diffusers("resampling", unet.resampling)
    names = {flags: name for name, flags in _BLOCKS[kind].items()}
    with_attention = names[True, None if kind == PLAIN else False]
    without = names[False, by_resblock]
    levels = range(len(unet.channel_mult))
    found = [with_attention if unet.has_attention(n) else without for n in levels]
    return [name.format(way) for name in found]


def _topology(
    config: Mapping[str, Any], kind: str, where: str
) -> tuple[list[bool], str]:
    """(whether each level attends, our kind of resampling); both ways must agree."""
    sides = []
    num_levels = len(config["block_out_channels"])
    for way, order in (("Down", 1), ("Up", -1)):
        field = f"{way.lower()}_block_types"
        types = {name.format(way): flags for name, flags in _BLOCKS[kind].items()}
        unknown = [t for t in config[field] if t not in types]
        if unknown or len(config[field]) != num_levels:
            value = unknown[0] if unknown else config[field]
            raise unsupported(where, field, value, " or ".join(types))
        flags = [types[t] for t in config[field]][::order]
        resample_type = config.get(f"{way.lower()}sample_type", "conv")
        by_resblock = [
            resample_type == "resnet" if by_type is None else by_type
            for _, by_type in flags
        ]
        # The last level does not go down, the first does not go up.
        kept = by_resblock[:-1] if way == "Down" else by_resblock[1:]
        sides.append(([attends for attends, _ in flags], set(kept)))
    (attends, resampled), (attends_up, resampled_up) = sides
    if attends != attends_up or len(resampled | resampled_up) > 1:
        value = config["up_block_types"]
        raise unsupported(where, "up_block_types", value, "the mirror of the way down")
    return attends, "resblock" if True in resampled else "conv"


def _heads(
    config: Mapping[str, Any], kind: str, widths: Sequence[int], where: str
) -> dict[str, int]:
    value = config.get("attention_head_dim", 8)
    if kind == PLAIN:
        return {"num_heads": 1} if value is None else {"num_head_channels": value}
    if isinstance(value, int):
        return {"num_heads": value}
    if isinstance(value, list | tuple) and len(value) == len(widths):
        if len({w / h for w, h in zip(widths, value, strict=True)}) == 1:
            return {"num_head_channels": widths[0] // value[0]}
        if len(set(value)) == 1:
            return {"num_heads": value[0]}
    supported = "one number of heads, or heads of one width at every level"
    raise unsupported(where, "attention_head_dim", value, supported)


def _attention_head_dim(unet: UNet, kind: str) -> int | list[int] | None:
    levels = range(len(unet.channel_mult))
    if kind == CROSS:
        return unet.num_heads or [heads_at(unet, level) for level in levels]
    if unet.num_head_channels:
        return unet.num_head_channels
    attending = [*filter(unet.has_attention, levels), levels[-1]]
    head_widths = {
        unet.model_channels * unet.channel_mult[level] // heads_at(unet, level)
        for level in attending
    }
    if unet.num_heads == 1:
        return None
    if len(head_widths) == 1:
        return head_widths.pop()
    raise _not_in_diffusers("num_heads", unet.num_heads)


def _not_in_diffusers(field: str, value: Any) -> ValueError:
    return ValueError(
        f"no diffusers U-Net has backbone.{field}={value!r} with this attention: export "
        "with --format=compvis"
    )
