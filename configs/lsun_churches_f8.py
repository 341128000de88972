"""LDM-8 on LSUN-Churches 256x256: an unconditional U-Net on the latents of kl_f8 (32x32x4).

Rombach et al. 2022, tables 1 and 12: FID 4.02, precision 0.64, recall 0.52 (200 DDIM
steps) after 500k steps at batch 96, learning rate 5e-5; 18 V100-days, one A100.
294,966,916 parameters beside the first stage's 83,653,863. The only published U-Net with
scale-shift norms, residual blocks for resampling and five levels; the only L1 loss and
measured latent scale without a condition. Pictures are cut to their central square,
resized (bicubic) and flipped at random.

    python train.py --config=configs/lsun_churches_f8.py --workdir=runs/churches \
        --config.data.source=folder:/path/to/images \
        --config.autoencoder.checkpoint=runs/kl_f8
"""

from ml_collections import ConfigDict

from configs.autoencoder import kl_f8
from configs.parts import latent_diffusion, training


def get_config(arg: str = "") -> ConfigDict:
    del arg
    config = latent_diffusion.config(
        first_stage=kl_f8.get_config(),
        backbone=latent_diffusion.unet(
            model_channels=192,
            channel_mult=(1, 2, 2, 4, 4),
            attention_resolutions=(1, 2, 4, 8),
            num_heads=8,
            time_conditioning="film",
            resampling="resblock",
        ),
        beta_end=0.0155,
        loss="l1",
        batch_size=96,
        learning_rate=5e-5,
        num_steps=500_000,
        resize="square_bicubic",
        flip_rate=0.5,
    )
    config.latent.scale_by_std = True
    config.optimizer.schedule = training.warmup(steps=10_000)
    return config
