"""Inpainting: LaMa's strokes and boxes cut out of emoji.

    python train.py --config=configs/emoji/inpainting.py --workdir=runs/tasks/inpainting \
        --config.autoencoder.checkpoint=runs/emoji_kl_f4
    python sample.py --checkpoint=runs/tasks/inpainting --init_image=a.png --mask=hole.png

hole.png is white where the picture is to be filled in.
"""

from ml_collections import ConfigDict

from configs.parts import conditioners, emoji


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return emoji.config(
        conditioner=conditioners.inpainting("latent_first"), holes="lama"
    )
