"""Whether the config that a user names describes the model that a folder holds."""

from collections.abc import Mapping
from typing import Any

from ldm_jax.interop.diffusers_modules import (
    autoencoder_of,
    text_encoder_of,
    unet_of,
)
from ldm_jax.interop.diffusers_unet import heads_at

Sections = Mapping[str, Any]


def check_sections(found: Sections, expected: Sections, folder: str) -> None:
    """Compare what two sets of sections compute; how they are written does not matter.

    Args:
      found: as `read_folder` derives them.
      expected: the sections of the config that was asked for.

    Raises:
      ValueError: one sentence that names the first difference.
    """
    theirs, ours = _description(found), _description(expected)
    for name, value in theirs.items():
        wanted = ours.get(name)
        if value != wanted:
            raise ValueError(
                f"{folder} is another model than the given one: its {name} is "
                f"{value!r}, the config's is {wanted!r}; give the config that fits, or "
                "none"
            )


def _description(sections: Sections) -> dict[str, Any]:
    parts = {
        "autoencoder": _autoencoder,
        "backbone": _backbone,
        "conditioner": _conditioner,
        "diffusion": _diffusion,
    }
    return {
        f"{part}.{name}": value
        for part, describe in parts.items()
        if part in sections
        for name, value in describe(sections[part]).items()
    }


def _backbone(section: Sections) -> dict[str, Any]:
    unet = unet_of(section, out_channels=1)
    levels = range(len(unet.channel_mult))
    attending = [level for level in levels if unet.has_attention(level)]
    names = ("model_channels", "channel_mult", "num_res_blocks", "attention")
    names += ("time_conditioning", "resampling", "num_groups")
    if unet.attention == "transformer":
        names += ("transformer_depth", "transformer_projection")
    return {name: getattr(unet, name) for name in names} | {
        "levels with attention": attending,
        "heads at these levels and the last": [
            heads_at(unet, level) for level in [*attending, levels[-1]]
        ],
    }


def _autoencoder(section: Sections) -> dict[str, Any]:
    module = autoencoder_of(section)
    names = ["z_channels", "embed_dim", "ch", "ch_mult", "num_res_blocks"]
    names += ["mid_attention", "num_groups"]
    if section["name"] == "vq":
        names.append("num_embeddings")
    resolutions = [module.resolution // 2**n for n in range(len(module.ch_mult))]
    return {"name": section["name"]} | {n: getattr(module, n) for n in names} | {
        "levels with attention": [
            n for n, size in enumerate(resolutions) if size in module.attn_resolutions
        ]
    }  # fmt: skip


def _conditioner(section: Sections) -> dict[str, Any]:
    name = section["name"]
    if name == "compose":
        parts = {k: v for k, v in section.items() if isinstance(v, Mapping)}
        return {
            f"{part}.{field}": value
            for part, fields in parts.items()
            for field, value in _conditioner(fields).items()
        }
    if name not in ("clip_text", "token_transformer"):
        kept = {"none": (), "concat": ("field",), "inpainting": ("order",)}
        return {"name": name} | {n: section.get(n) for n in kept.get(name, ())}
    encoder = text_encoder_of(section)
    fields = ["num_layers", "num_heads", "vocab_size", "max_length"]
    fields += ["width", "activation"] if name == "clip_text" else ["embed_dim"]
    return {"name": name} | {field: getattr(encoder, field) for field in fields}


def _diffusion(section: Sections) -> dict[str, Any]:
    schedule = {"zero_terminal_snr": False} | dict(section["schedule"])
    return {f"schedule.{name}": value for name, value in schedule.items()} | {
        "prediction": section["prediction"]
    }
