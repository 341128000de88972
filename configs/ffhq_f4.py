"""LDM-4 on FFHQ 256x256: an unconditional U-Net on the latents of vq_f4 (64x64x3).

Rombach et al. 2022, tables 1 and 12: FID 4.98, precision 0.73, recall 0.50 (200 DDIM
steps, eta 1) after 635k steps at batch 42, learning rate 8.4e-5; 26 V100-days, one A100.
274,056,163 parameters beside the first stage's 55,322,782. FFHQ: 60,000 training
pictures, resized by their shorter side (bilinear) and centre-cropped, never flipped.

    python train.py --config=configs/ffhq_f4.py --workdir=runs/ffhq \
        --config.data.source=folder:/path/to/images \
        --config.autoencoder.checkpoint=runs/vq_f4
"""

from ml_collections import ConfigDict

from configs.autoencoder import vq_f4
from configs.parts import latent_diffusion


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return latent_diffusion.config(
        first_stage=vq_f4.get_config(),
        backbone=latent_diffusion.unet(
            model_channels=224,
            channel_mult=(1, 2, 3, 4),
            attention_resolutions=(8, 4, 2),
            num_head_channels=32,
        ),
        beta_end=0.0195,
        batch_size=42,
        learning_rate=8.4e-5,
        num_steps=635_000,
    )
