"""The published models: their configs, and what their files hold."""

import gzip
import importlib
import json
from pathlib import Path

from ldm_jax.conversion import describing

MANIFESTS = Path(__file__).parent / "golden" / "manifests"

# Manifest -> file under configs/, with the argument of `get_config` if it needs one.
CONFIGS = {
    "first_stage_kl-f4": "autoencoder.kl_f4",
    "first_stage_kl-f8": "autoencoder.kl_f8",
    "first_stage_kl-f16": "autoencoder.kl_f16",
    "first_stage_kl-f32": "autoencoder.kl_f32",
    "first_stage_vq-f4": "autoencoder.vq_f4",
    "first_stage_vq-f4-noattn": "autoencoder.vq_f4_noattn",
    "first_stage_vq-f8": "autoencoder.vq_f8",
    "first_stage_vq-f8-n256": "autoencoder.vq_f8_n256",
    "first_stage_vq-f16": "autoencoder.vq_f16",
    "ldm_celeba256": "celebahq_f4",
    "ldm_ffhq256": "ffhq_f4",
    "ldm_lsun_beds256": "lsun_bedrooms_f4",
    "ldm_lsun_churches256": "lsun_churches_f8",
    "ldm_cin256-v2": "imagenet_f4",
    "ldm_cin256": "imagenet_f8",
    "ldm_text2img256": "text2img_f4",
    "ldm_txt2img-1p4B-eval": "text2img_1p4b",
    "ldm_layout2img-openimages256": "layout_openimages_f4",
    "ldm_semantic_synthesis256": "semantic_landscapes_f4",
    "ldm_semantic_synthesis512": "semantic_landscapes_f4:512",
    "ldm_bsr_sr": "sr_bsr_f4",
    "ldm_inpainting_big": "inpaint_f4",
    "ldm_rdm768x768": "rdm_768",
    "sd_v1": "sd_v1",
}

_DESCRIPTIONS: dict[str, describing.Description] = {}


def config_of(name: str):
    """The config of `FILE` or `FILE:ARGUMENT` under configs/."""
    module, _, argument = name.partition(":")
    get_config = importlib.import_module(f"configs.{module}").get_config
    return get_config(argument) if argument else get_config()


def description_of(name: str) -> describing.Description:
    """What a file must hold to fit that config; one for all of one architecture."""
    config = config_of(name)
    sections = ("autoencoder", "backbone", "conditioner", "tokenizer")
    key = json.dumps([config.get(section) for section in sections], default=str)
    if key not in _DESCRIPTIONS:
        _DESCRIPTIONS[key] = describing.describe(config)
    return _DESCRIPTIONS[key]


def manifest(name: str) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """(shapes by name, sizes of the parts) of a published checkpoint."""
    data = json.loads(gzip.decompress((MANIFESTS / f"{name}.json.gz").read_bytes()))
    keys = {key: tuple(shape) for key, shape in data["keys"].items()}
    return keys, data["param_breakdown"]


def narrow(config):
    """The same model with few channels, levels and layers, changed in place.

    Every choice stays: kinds of blocks, of attention and of conditions, the first stage's
    downsampling factor, the loss, the optimizer.
    """
    autoencoder, backbone = config.autoencoder, config.backbone
    num_levels = len(autoencoder.ch_mult)
    autoencoder.update({"ch": 4, "num_res_blocks": 1, "num_groups": 2})
    autoencoder.update({"ch_mult": (1,) * num_levels, "attn_resolutions": ()})
    if autoencoder.name == "vq":
        autoencoder.num_embeddings = 8
    backbone.update({"model_channels": 8, "channel_mult": (1, 2), "num_groups": 2})
    backbone.update({"num_res_blocks": 1, "remat": "none"})
    if backbone.attention_resolutions:
        backbone.attention_resolutions = (2,)
    few_heads = {"num_heads": min(backbone.get("num_heads", 1), 2)}
    backbone.update(
        {"num_head_channels": 4} if "num_head_channels" in backbone else few_heads
    )
    conditioner = config.conditioner
    for part in conditioner, *conditioner.values():
        if hasattr(part, "items"):
            part.update({k: v for k, v in _NARROW.items() if k in part})
    config.data.image_size = 4 * 2 ** (num_levels - 1)
    config.train.batch_size = 2
    return config


_NARROW = {
    "num_classes": 3,
    "embed_dim": 8,
    "width": 8,
    "num_heads": 2,
    "num_layers": 2,
    "num_tokens": 2,
}
