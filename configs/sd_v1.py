"""Stable Diffusion v1 at 512x512, text to image on the latents of kl_f8 (64x64x4).

CompVis/stable-diffusion, v1-1 to v1-5: the architecture of text2img_1p4b with CLIP
ViT-L/14 for a text encoder, trained at batch 2048, learning rate 1e-4, captions dropped
at a rate of 0.1 from v1-3 on. No row in the paper; no FID was published as a number.
859,520,964 parameters beside the frozen text encoder's 123,060,480 and the first stage's
83,653,863. num_steps is ours: the releases continue one another.

    python train.py --config=configs/sd_v1.py --workdir=runs/sd_v1 \
        --config.data.source=folder:/path/to/images \
        --config.autoencoder.checkpoint=runs/sd_v1_released/autoencoder \
        --config.conditioner.checkpoint=runs/sd_v1_released
"""

from ml_collections import ConfigDict

from configs.autoencoder import kl_f8
from configs.parts import conditioners, latent_diffusion, training


def get_config(arg: str = "") -> ConfigDict:
    del arg
    config = latent_diffusion.config(
        first_stage=kl_f8.get_config(),
        backbone=latent_diffusion.transformer_unet(
            model_channels=320,
            channel_mult=(1, 2, 4, 4),
            attention_resolutions=(4, 2, 1),
            num_heads=8,
            remat="blocks",
        ),
        conditioner=conditioners.clip_vit_l(drop_rate=0.1),
        tokenizer=conditioners.tokenizer("clip"),
        beta_start=0.00085,
        beta_end=0.012,
        latent_scale=0.18215,
        batch_size=2048,
        learning_rate=1e-4,
        num_steps=500_000,
        image_size=512,
    )
    config.sampler.guidance_scale = 7.5
    config.optimizer.schedule = training.warmup(steps=10_000)
    return config
