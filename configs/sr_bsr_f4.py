"""LDM-4, super-resolution 64x64 -> 256x256 (bsr_sr), on the latents of vq_f4.

Rombach et al. 2022, tables 5 and 15: FID 2.8 on ImageNet val, IS 166.3, PSNR 24.4, SSIM
0.69 (100 DDIM steps) after 860k steps at batch 64, learning rate 6.4e-5; that model saw
bicubic degradation, this one the light BSRGAN degradation of OpenImages (no score).
113,622,563 parameters beside the first stage's 55,322,782 (the paper's 169M is their
sum). The low-resolution picture has the size of the latent and is joined to it; it is
made of each picture while training (`--config.data.degradation=bicubic` for the paper's
ImageNet model). pip install ".[sr]" brings OpenCV, which the degradations of BSRGAN need.

    python train.py --config=configs/sr_bsr_f4.py --workdir=runs/sr_bsr \
        --config.data.source=folder:/path/to/images \
        --config.autoencoder.checkpoint=runs/vq_f4
"""

from ml_collections import ConfigDict

from configs.autoencoder import vq_f4
from configs.parts import conditioners, latent_diffusion


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return latent_diffusion.config(
        first_stage=vq_f4.get_config(),
        backbone=latent_diffusion.unet(
            model_channels=160,
            channel_mult=(1, 2, 2, 4),
            attention_resolutions=(16, 8),
            num_head_channels=32,
        ),
        conditioner=conditioners.concat("low_res"),
        beta_end=0.0155,
        batch_size=64,
        learning_rate=6.4e-5,
        num_steps=860_000,
        resize="area",
        crop="random",
        crop_scale=(0.5, 1.0),  # the square's side, in shares of the shorter one
        degradation="bsrgan_light",  # or bicubic, bsrgan, ...: docs/conditions.md
    )
