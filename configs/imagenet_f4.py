"""LDM-4 on ImageNet 256x256, class-conditional (cin256-v2), on the latents of vq_f4.

Rombach et al. 2022, table 3: FID 3.60, IS 247.67, precision 0.87, recall 0.48 with
guidance 1.5 (250 DDIM steps), FID 10.56, IS 103.49 without, after 178k steps at batch
1200, learning rate 1e-4; 271 V100-days.
400,920,579 parameters beside the class table's 512,512 and the first stage's 55,322,782.
The rate at which labels were dropped was never published; 0.1 is ours.

    python train.py --config=configs/imagenet_f4.py --workdir=runs/imagenet_f4 \
        --config.data.source=folder:/path/to/images \
        --config.autoencoder.checkpoint=runs/vq_f4
"""

from ml_collections import ConfigDict

from configs.autoencoder import vq_f4
from configs.parts import conditioners, latent_diffusion


def get_config(arg: str = "") -> ConfigDict:
    del arg
    config = latent_diffusion.config(
        first_stage=vq_f4.get_config(),
        backbone=latent_diffusion.transformer_unet(
            model_channels=192,
            channel_mult=(1, 2, 3, 5),
            attention_resolutions=(8, 4, 2),
            num_heads=1,
        ),
        conditioner=conditioners.class_label(
            num_classes=1000, embed_dim=512, has_null=True, drop_rate=0.1
        ),
        beta_end=0.0195,
        batch_size=1200,
        learning_rate=1e-4,
        num_steps=178_000,
        crop="random",
    )
    config.sampler.guidance_scale = 1.5
    return config
