"""Super-resolution x4: 16x16 pictures, degraded as by BSRGAN-light, to 64x64.

    python train.py --config=configs/emoji/super_resolution.py \
        --workdir=runs/tasks/super_resolution \
        --config.autoencoder.checkpoint=runs/emoji_kl_f4
    python sample.py --checkpoint=runs/tasks/super_resolution --low_res=small.png
"""

from ml_collections import ConfigDict

from configs.parts import conditioners, emoji


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return emoji.config(
        conditioner=conditioners.concat("low_res"), degradation="bsrgan_light"
    )
