"""diffusers' pipelines <-> our config sections: what its components are here.

| pipeline                       | components                            | condition here |
|--------------------------------|---------------------------------------|----------------|
| LDMPipeline                    | UNet2DModel, VQModel                  | none           |
| LDMSuperResolutionPipeline     | UNet2DModel, VQModel                  | the small picture, joined |
| LDMTextToImagePipeline         | UNet2DConditionModel, AutoencoderKL or VQModel, LDMBertModel | text |
| StableDiffusionPipeline        | UNet2DConditionModel, AutoencoderKL, CLIPTextModel | text |
| StableDiffusionInpaintPipeline | the same                              | text, hole and masked picture |
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ldm_jax.interop.diffusers_autoencoder import (
    autoencoder_config,
    autoencoder_section,
    scaling_factor,
)
from ldm_jax.interop.diffusers_conditioner import (
    BERT,
    CLIP,
    bert_config,
    bert_section,
    clip_config,
    clip_section,
    parts_of,
    text_part,
    tokens_dim,
)
from ldm_jax.interop.diffusers_modules import (
    autoencoder_of,
    text_encoder_of,
    unet_of,
)
from ldm_jax.interop.diffusers_parts import (
    Component,
    autoencoder_component,
    text_component,
    unet_component,
)
from ldm_jax.interop.diffusers_scheduler import (
    diffusion_section,
    sampler_section,
    scheduler_config,
)
from ldm_jax.interop.diffusers_unet_config import (
    CROSS,
    PLAIN,
    unet_config,
    unet_section,
    with_defaults,
)

Section = Mapping[str, Any]
Configs = Mapping[str, Mapping[str, Any]]

LDM, LDM_SR, LDM_TEXT = (
    "LDMPipeline",
    "LDMSuperResolutionPipeline",
    "LDMTextToImagePipeline",
)
SD, SD_INPAINT = "StableDiffusionPipeline", "StableDiffusionInpaintPipeline"


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """How a pipeline's folder is laid out.

    Attributes:
      unet: class of the component `unet`.
      first_stage: name of that component.
      text_encoder: name of that component; None without text.
      tokenizer: the name that we give its tokenizer, and transformers' class.
    """

    unet: str
    first_stage: str
    text_encoder: str | None = None
    tokenizer: tuple[str, str] = ("none", "")


_TEXT_CLASSES = {
    "text_encoder": ("transformers", CLIP),
    "bert": ("latent_diffusion", BERT),
}
_CLIP_TOKENIZER = ("clip", "CLIPTokenizer")
PIPELINES = {
    LDM: Pipeline(PLAIN, "vqvae"),
    LDM_SR: Pipeline(PLAIN, "vqvae"),
    LDM_TEXT: Pipeline(CROSS, "vqvae", "bert", ("bert", "BertTokenizer")),
    SD: Pipeline(CROSS, "vae", "text_encoder", _CLIP_TOKENIZER),
    SD_INPAINT: Pipeline(CROSS, "vae", "text_encoder", _CLIP_TOKENIZER),
}


def sections_of(pipeline: str, configs: Configs) -> tuple[dict[str, Any], list[str]]:
    """(our config sections, sentences for the report) of a pipeline's components.

    Args:
      pipeline: a key of `PIPELINES`.
      configs: each component's own config, by the component's name.

    Raises:
      ValueError: names a field that our modules have no counterpart for.
    """
    layout = PIPELINES[pipeline]
    unet, stage = configs["unet"], configs[layout.first_stage]
    scheduler = configs["scheduler"]
    backbone, unread = unet_section(unet, "unet/config.json")
    autoencoder, more = autoencoder_section(stage, f"{layout.first_stage}/config.json")
    notes = [f"not looked at: {name} of the unet" for name in unread]
    notes += [f"not looked at: {name} of the {layout.first_stage}" for name in more]
    latent_scale = scaling_factor(stage)
    if pipeline == LDM_SR:
        latent_scale = 1.0  # whatever its VQModel says: this pipeline does not scale
    elif "scaling_factor" not in stage:
        notes.append(
            f"the {layout.first_stage} does not say its scaling_factor: {latent_scale} "
            "is taken, as in the original"
        )
    sections = {
        "task": "denoising",
        "backbone": backbone,
        "autoencoder": autoencoder | {"checkpoint": "autoencoder"},
        "conditioner": _conditioner_section(pipeline, configs, autoencoder),
        "tokenizer": _tokenizer_section(layout, configs),
        "latent": {"scale": latent_scale, "scale_by_std": False},
        "diffusion": diffusion_section(scheduler, "scheduler/scheduler_config.json"),
        "sampler": sampler_section(scheduler),
        "data": {"image_size": _image_size(configs, layout, autoencoder)},
    }
    return sections, notes


def pipeline_of(sections: Section) -> str:
    """The pipeline that draws from a model of ours.

    Raises:
      ValueError: if diffusers has none.
    """
    conditioner = sections["conditioner"]
    name, is_kl = conditioner["name"], sections["autoencoder"]["name"] == "kl"
    if sections["backbone"].get("attention", "plain") == "plain":
        if name == "none":
            return LDM
        if name == "concat" and sections["latent"]["scale"] == 1.0:
            return LDM_SR
    elif name == "token_transformer" and sections["tokenizer"]["name"] == "bert":
        return LDM_TEXT
    elif name == "clip_text" and is_kl:
        return SD
    elif name == "compose" and is_kl:
        kinds = {value["name"]: value for value in parts_of(conditioner).values()}
        inpainting = kinds.get("inpainting", {})
        in_order = inpainting.get("order") == "mask_first"
        if set(kinds) == {"clip_text", "inpainting"} and in_order:
            return SD_INPAINT
    raise ValueError(
        f"diffusers has no pipeline for a model with the conditioner {name!r}, this "
        "first stage and this attention: export with --format=compvis"
    )


def component_configs(pipeline: str, sections: Section) -> dict[str, dict[str, Any]]:
    """Each component's config, by the component's name; the inverse of `sections_of`.

    Raises:
      ValueError: names a field that diffusers has no counterpart for.
    """
    layout = PIPELINES[pipeline]
    stage = autoencoder_of(sections["autoencoder"])
    unet = unet_of(sections["backbone"], stage.latent_channels)
    image_size = sections["data"]["image_size"]
    scale = float(sections["latent"]["scale"])
    is_stable = pipeline in (SD, SD_INPAINT)
    _, text = text_part(sections["conditioner"])
    configs = {
        layout.first_stage: autoencoder_config(
            stage, latent_scale=scale, sample_size=image_size
        ),
        "unet": unet_config(
            unet,
            in_channels=_in_channels(pipeline, stage.latent_channels),
            tokens_dim=None if text is None else tokens_dim(text),
            sample_size=image_size // stage.downsampling_factor,
        ),
        "scheduler": scheduler_config(
            sections["diffusion"],
            grid=sections.get("sampler", {}).get("grid", "leading"),
            steps_offset=int(is_stable),
            final="first" if is_stable else "clean",
        ),
    }
    if text is not None and layout.text_encoder is not None:
        encoder = text_encoder_of(text)
        is_clip = text["name"] == "clip_text"
        configs[layout.text_encoder] = (
            clip_config(encoder) if is_clip else bert_config(encoder)  # pyright: ignore
        )
    return configs


def components(pipeline: str, sections: Section) -> list[Component]:
    """The networks of a pipeline's folder."""
    layout = PIPELINES[pipeline]
    stage = autoencoder_of(sections["autoencoder"])
    channels = stage.latent_channels
    unet = unet_of(sections["backbone"], channels)
    path, text = text_part(sections["conditioner"])
    width = None if text is None else tokens_dim(text)
    found = [
        unet_component("unet", unet, _in_channels(pipeline, channels), width),
        autoencoder_component(layout.first_stage, stage),
    ]
    if text is not None and layout.text_encoder is not None:
        encoder = text_encoder_of(text)
        found.append(text_component(layout.text_encoder, encoder, path))
    return found


def index_of(pipeline: str, configs: Configs) -> dict[str, Any]:
    """The `model_index.json` of a pipeline: library and class of each component."""
    layout = PIPELINES[pipeline]
    index: dict[str, Any] = {"_class_name": pipeline}
    for name, config in configs.items():
        if name == layout.text_encoder:
            library, kind = _TEXT_CLASSES[name]
        else:
            library, kind = "diffusers", config["_class_name"]
        index[name] = [library, kind]
    if layout.text_encoder is not None:
        index["tokenizer"] = ["transformers", layout.tokenizer[1]]
    if pipeline in (SD, SD_INPAINT):
        for name in ("safety_checker", "feature_extractor", "image_encoder"):
            index[name] = [None, None]
        index["requires_safety_checker"] = False
    return index


def _in_channels(pipeline: str, latent_channels: int) -> int:
    """Channels that the U-Net of a pipeline reads: the latent and what is joined to it."""
    joined = {LDM_SR: 3, SD_INPAINT: latent_channels + 1}
    return latent_channels + joined.get(pipeline, 0)


def _conditioner_section(
    pipeline: str, configs: Configs, autoencoder: Section
) -> dict[str, Any]:
    unet, channels = with_defaults(configs["unet"]), autoencoder["embed_dim"]
    expected = _in_channels(pipeline, channels)
    for field, value in (("in_channels", expected), ("out_channels", channels)):
        if unet[field] != value:
            raise ValueError(
                f"unet/config.json has {field}={unet[field]}, but a {pipeline} whose "
                f"latent has {channels} channels needs {value}"
            )
    layout = PIPELINES[pipeline]
    if layout.text_encoder is None:
        section = {"name": "none"}
        if pipeline == LDM_SR:
            section = {"name": "concat", "field": "low_res"}
        return section | {"trainable": False, "checkpoint": ""}
    is_clip = layout.text_encoder == "text_encoder"
    read = clip_section if is_clip else bert_section
    where = f"{layout.text_encoder}/config.json"
    text = read(configs[layout.text_encoder], where)
    if unet.get("cross_attention_dim", 1280) != tokens_dim(text):
        raise ValueError(
            f"unet/config.json has cross_attention_dim={unet.get('cross_attention_dim')}"
            f", but the text encoder in {layout.text_encoder}/ is {tokens_dim(text)} wide"
        )
    if pipeline == SD_INPAINT:
        inpainting = {"name": "inpainting", "order": "mask_first"}
        text = {"name": "compose", "text": text, "inpainting": inpainting}
    return text | {"trainable": not is_clip, "checkpoint": ""}


def _tokenizer_section(layout: Pipeline, configs: Configs) -> dict[str, Any]:
    name, _ = layout.tokenizer
    section = {"name": name, "path": "", "max_length": 77, "pad": ""}
    if layout.text_encoder is None:
        return section
    config = configs[layout.text_encoder]
    length = config.get("max_position_embeddings", 77)
    return section | {"path": "tokenizer", "max_length": length}


def _image_size(configs: Configs, layout: Pipeline, autoencoder: Section) -> int:
    latent_size = configs["unet"].get("sample_size")
    if isinstance(latent_size, list | tuple):
        latent_size = latent_size[0]
    if latent_size is None:
        return configs[layout.first_stage].get("sample_size", 256)
    return latent_size * 2 ** (len(autoencoder["ch_mult"]) - 1)
