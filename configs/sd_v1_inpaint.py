"""Stable Diffusion v1, inpainting at 512x512: sd_v1 with nine input channels.

RunwayML's inpainting model of the v1 series: the U-Net reads the noisy latent (4), the
hole (1, in 0..1) and the masked picture's latent (4), beside the text. No score was
published in the paper; batch and rate are those of sd_v1, num_steps is ours.
859,535,364 parameters beside the frozen text encoder's 123,060,480 and the first stage's
83,653,863.

    python train.py --config=configs/sd_v1_inpaint.py --workdir=runs/sd_v1_inpaint \
        --config.data.source=folder:/path/to/images \
        --config.autoencoder.checkpoint=runs/sd_v1_released/autoencoder \
        --config.conditioner.checkpoint=runs/sd_v1_inpaint_released
"""

from ml_collections import ConfigDict

from configs import sd_v1
from configs.parts import conditioners


def get_config(arg: str = "") -> ConfigDict:
    del arg
    config = sd_v1.get_config()
    config.conditioner = conditioners.compose(
        text=conditioners.clip_vit_l(drop_rate=0.1),
        inpainting=conditioners.inpainting("mask_first"),
    )
    config.data.holes = "lama"  # ours: the original's masks were not published
    return config
