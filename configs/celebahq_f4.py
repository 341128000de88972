"""LDM-4 on CelebA-HQ 256x256: an unconditional U-Net on the latents of vq_f4 (64x64x3).

Rombach et al. 2022, tables 1 and 12: FID 5.11, precision 0.72, recall 0.49 (500 DDIM
steps) after 410k steps at batch 48, learning rate 9.6e-5; 14.4 V100-days, one A100.
274,056,163 parameters beside the first stage's 55,322,782. 25,000 training pictures,
resized by their shorter side (bilinear) and centre-cropped, never flipped.

    python train.py --config=configs/celebahq_f4.py --workdir=runs/celebahq \
        --config.data.source=folder:/path/to/images \
        --config.autoencoder.checkpoint=runs/vq_f4
"""

from ml_collections import ConfigDict

from configs import ffhq_f4


def get_config(arg: str = "") -> ConfigDict:
    del arg
    config = ffhq_f4.get_config()
    config.train.update(
        {"batch_size": 48, "learning_rate": 9.6e-5, "num_steps": 410_000}
    )
    return config
