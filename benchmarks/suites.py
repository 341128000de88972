"""Which rows are measured where, and in what sizes."""

from functools import partial

from benchmarks import attention, first_stage, sampling, text, unet
from benchmarks.first_stage_training import training
from benchmarks.rows import Case


def _case(name: str, make, *args, gigabytes: float = 1.0) -> Case:
    return Case(name, partial(_call, make, args), gigabytes)


def _call(make, args, setting):
    return make(setting, *args)


def cpu() -> list[Case]:
    """Two cores and 20 GB: batches of 1 for the published sizes."""
    from benchmarks import data, starting

    return [
        _case("U-Net emoji_f4 b16, forward", unet.forward, "emoji_f4", 16),
        _case("U-Net emoji_f4 b32, train step", unet.step, "emoji_f4", 32),
        _case("U-Net ffhq_f4 b1, forward", unet.forward, "ffhq_f4", 1, gigabytes=5),
        _case("U-Net ffhq_f4 b1, train step", unet.step, "ffhq_f4", 1, gigabytes=15),
        _case("U-Net sd_v1 b1, forward", unet.forward, "sd_v1", 1, gigabytes=13),
        _case("U-Net sd_v1 b1, train step", unet.step, "sd_v1", 1, gigabytes=42),
        _case("emoji_kl_f4 b16 64², encode", first_stage.encode, "emoji_kl_f4", 16, 64),
        _case("emoji_kl_f4 b16 64², decode", first_stage.decode, "emoji_kl_f4", 16, 64),
        _case("emoji_kl_f4 b8 64², train step", training, "emoji_kl_f4", 8, 64),
        _case(
            "kl_f8 b1 256², encode", first_stage.encode, "kl_f8", 1, 256, gigabytes=3
        ),
        _case(
            "kl_f8 b1 256², decode", first_stage.decode, "kl_f8", 1, 256, gigabytes=3
        ),
        _case("DDIM-50 emoji_f4 b16, guided", sampling.ddim, sampling.EMOJI, 16, 50),
        _case("CLIP ViT-L/14 text b4", text.encode, "clip_vit_l", 4, gigabytes=3),
        _case("attention 1x1024x14x32", attention.forward, (1, 1024, 14, 32)),
        _case(
            "attention 1x1024x14x32, gradient", attention.gradient, (1, 1024, 14, 32)
        ),
        _case("data: emoji64, against the train step", data.demo, 32),
        _case("data: JPEGs at 256, one core", data.jpegs, 256, 32),
        _case("compiling the emoji_f4 step", starting.compile_step),
        _case("sample.py, first picture", starting.sample_command, "runs/emoji_f4"),
    ]


def gpu() -> list[Case]:
    """One data-centre GPU; run with --device=gpu --dtype=bfloat16."""
    return [
        _case("U-Net ffhq_f4 b16, train step", unet.step, "ffhq_f4", 16, gigabytes=8),
        _case("U-Net ffhq_f4 b64, train step", unet.step, "ffhq_f4", 64, gigabytes=8),
        _case("DDIM-200 ffhq_f4 b64", sampling.ddim, sampling.FFHQ, 64, 200),
        _case("U-Net sd_v1 b16, forward", unet.forward, "sd_v1", 16, gigabytes=12),
        _case("attention 16x4096x8x40", attention.forward, (16, 4096, 8, 40)),
        _case(
            "attention 16x4096x8x40, gradient", attention.gradient, (16, 4096, 8, 40)
        ),
        _case("attention 64x1024x14x32", attention.forward, (64, 1024, 14, 32)),
        _case(
            "attention 64x1024x14x32, gradient", attention.gradient, (64, 1024, 14, 32)
        ),
        _case("vq_f4 b16 256², decode", first_stage.decode, "vq_f4", 16, 256),
        _case("kl_f8 b8 512², decode", first_stage.decode, "kl_f8", 8, 512),
        _case("CLIP ViT-L/14 text b32", text.encode, "clip_vit_l", 32),
    ]


def tiny() -> list[Case]:
    """Every row with next to no work, to see that it runs."""
    return [
        _case("U-Net, forward", unet.forward, "tiny", 2),
        _case("U-Net, train step", unet.step, "tiny", 2),
        _case("first stage, encode", first_stage.encode, "tiny", 2, 16),
        _case("first stage, decode", first_stage.decode, "tiny", 2, 16),
        _case("first stage, train step", training, "tiny", 2, 16),
        _case("DDIM", sampling.ddim, sampling.TINY, 2, 4),
        _case("text", text.encode, "tiny", 2),
        _case("attention", attention.forward, (1, 16, 2, 8)),
        _case("attention, gradient", attention.gradient, (1, 16, 2, 8)),
    ]


SUITES = {"cpu": cpu, "gpu": gpu, "tiny": tiny}
