"""diffusers and transformers (torch), importable, and tiny models of them with random weights."""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch

_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def _make_torchvision_importable():
    """A torchvision whose compiled part does not load lacks two operators: declare them."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except RuntimeError:
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for op in ("nms", "qnms"):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            _LIBRARY.define(op + signature)


_make_torchvision_importable()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    import transformers
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
        LDMBertConfig,
        LDMBertModel,
    )

diffusers.utils.logging.set_verbosity_error()
transformers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()

PUBLISHED_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
}


def randomize(model, seed=0):
    """Random weights with which activations keep their size; nothing stays zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_matrix = parameter.ndim > 1
            scale = 0.7 / parameter[0].numel() ** 0.5 if is_matrix else 0.1
            if "embed" in name and is_matrix:
                scale = 1.0
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(noise * scale + offset)
    return model.eval().requires_grad_(False)


def unet(kind, widths, blocks, **fields):
    """A U-Net; `blocks` are the prefixes of its levels, such as ("", "Attn")."""
    fields = {"sample_size": 16, "layers_per_block": 1, **fields}
    return randomize(
        getattr(diffusers, kind)(
            block_out_channels=widths,
            down_block_types=[f"{block}DownBlock2D" for block in blocks],
            up_block_types=[f"{block}UpBlock2D" for block in reversed(blocks)],
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


def ldm_bert(width=32, layers=2):
    """diffusers' LDMBertModel with BERT's vocabulary."""
    config = LDMBertConfig(
        encoder_layers=layers,
        encoder_ffn_dim=4 * width,
        encoder_attention_heads=4,
        head_dim=8,
        d_model=width,
    )
    return randomize(LDMBertModel(config))


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
