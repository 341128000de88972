"""diffusers and transformers (torch), importable, and tiny models of them with random weights."""

from pathlib import Path

import numpy as np
import torch

from tests.parity.torch_transformers import import_transformers, ldm_bert, randomised

transformers = import_transformers()

import diffusers

diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()

PUBLISHED_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
}


def randomize(model, seed=0):
    """`randomised`, and convolutions that keep their input's variance."""
    randomised(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, fan_in**-0.5, generator=generator)
            if isinstance(module, torch.nn.GroupNorm):
                module.weight.normal_(1, 0.1, generator=generator)
    return model


def unet(kind, widths, blocks, **fields):
    """A U-Net; `blocks` are the kinds of its levels: "", "Attn", "CrossAttn", "Resnet"."""
    fields = {"sample_size": 16, "layers_per_block": 1, **fields}

    def types(way, blocks):
        way = {True: f"{way}sample", False: way}
        return [f"{block}{way[block == 'Resnet']}Block2D" for block in blocks]

    return randomize(
        getattr(diffusers, kind)(
            block_out_channels=widths,
            down_block_types=types("Down", blocks),
            up_block_types=types("Up", blocks[::-1]),
            **fields,
        )
    )


def first_stage(kind, widths, blocks=None, **fields):
    """A first stage; `blocks` as for `unet`."""
    blocks = blocks or ("",) * len(widths)
    fields = {"sample_size": 32, "layers_per_block": 1, **fields}
    return randomize(
        getattr(diffusers, kind)(
            block_out_channels=widths,
            down_block_types=[f"{block}DownEncoderBlock2D" for block in blocks],
            up_block_types=[f"{block}UpDecoderBlock2D" for block in reversed(blocks)],
            **fields,
        )
    )


def clip_text(width=32, layers=2, **fields):
    """A CLIPTextModel with CLIP's vocabulary."""
    config = transformers.CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        **fields,
    )
    return randomize(transformers.CLIPTextModel(config))


def bert_text(width=32, layers=2):
    """diffusers' LDMBertModel with BERT's vocabulary."""
    make_config, make_model = ldm_bert()
    config = make_config(
        encoder_layers=layers,
        encoder_ffn_dim=4 * width,
        encoder_attention_heads=4,
        head_dim=8,
        d_model=width,
    )
    return randomize(make_model(config))


def tokenizer(kind, folder: Path):
    """transformers' tokenizer `kind` on the vocabulary that ours wrote to `folder`."""
    return getattr(transformers, kind).from_pretrained(folder)


def scheduler(**fields):
    """A DDIMScheduler with the published betas."""
    return diffusers.DDIMScheduler(**PUBLISHED_SCHEDULE, **fields)


def nchw(x):
    """`[b h w c]` numpy -> `[b c h w]` torch."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))


def nhwc(x):
    """`[b c h w]` torch -> `[b h w c]` numpy."""
    return x.numpy().transpose(0, 2, 3, 1)


def ldm_pipeline():
    """Tiny LDMPipeline; its first stage is VQ."""
    network = unet("UNet2DModel", (32, 64), ("", "Attn"), attention_head_dim=16)
    return diffusers.LDMPipeline(_vq(), network, scheduler())


def super_resolution_pipeline():
    """Tiny LDMSuperResolutionPipeline."""
    network = unet(
        "UNet2DModel",
        (32, 64),
        ("", "Attn"),
        attention_head_dim=16,
        in_channels=6,
        out_channels=3,
    )
    return diffusers.LDMSuperResolutionPipeline(_vq(), network, scheduler())


def text_pipeline(tokenizer_folder):
    """Tiny LDMTextToImagePipeline."""
    return diffusers.LDMTextToImagePipeline(
        _kl(),
        bert_text(),
        transformers.BertTokenizer.from_pretrained(tokenizer_folder),
        _text_unet(attention_head_dim=4),
        scheduler(),
    )


def stable_diffusion(tokenizer_folder, *, inpaint=False, act="quick_gelu", **fields):
    """Tiny StableDiffusionPipeline, or the inpainting one; `fields` are the U-Net's."""
    classes = (
        diffusers.StableDiffusionPipeline,
        diffusers.StableDiffusionInpaintPipeline,
    )
    fields = {"attention_head_dim": 4, "in_channels": 9 if inpaint else 4, **fields}
    prediction = "v_prediction" if fields.get("use_linear_projection") else "epsilon"
    return classes[inpaint](
        vae=_kl(),
        text_encoder=clip_text(hidden_act=act),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(tokenizer_folder),
        unet=_text_unet(**fields),
        scheduler=scheduler(
            steps_offset=1, set_alpha_to_one=False, prediction_type=prediction
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _vq():
    return first_stage("VQModel", (32, 64), num_vq_embeddings=64, scaling_factor=1.0)


def _kl():
    return first_stage("AutoencoderKL", (32, 32), sample_size=16)


def _text_unet(blocks=("CrossAttn", ""), **fields):
    fields = {"cross_attention_dim": 32, "sample_size": 8, **fields}
    return unet("UNet2DConditionModel", (32, 64)[: len(blocks)], blocks, **fields)


def from_config(component, config):
    """The network of a pipeline's `component` with a config that we wrote."""
    if component == "text_encoder":
        fields = {k: v for k, v in config.items() if k != "architectures"}
        return transformers.CLIPTextModel(transformers.CLIPTextConfig(**fields))
    if component == "bert":
        make_config, make_model = ldm_bert()
        return make_model(make_config(**config))
    return getattr(diffusers, config["_class_name"]).from_config(config)
