"""LDM-8 on ImageNet 256x256, class-conditional (cin256), on the latents of vq_f8 (32x32x4).

Rombach et al. 2022, table 10: FID 15.51, IS 79.03, precision 0.65, recall 0.63 (200 DDIM
steps, no guidance) after 4.8M steps at batch 64, learning rate 6.4e-5; 79 V100-days at
2.9M steps (FID 17.41).
394,984,196 parameters beside the class table's 512,000 and the first stage's 67,717,295.
One attention head, as the model was trained: the original's code has since changed to
read its config as heads of 32 channels, which loads and draws wrong pictures.

    python train.py --config=configs/imagenet_f8.py --workdir=runs/imagenet_f8 \
        --config.data.source=folder:/path/to/images \
        --config.autoencoder.checkpoint=runs/vq_f8
"""

from ml_collections import ConfigDict

from configs.autoencoder import vq_f8
from configs.parts import conditioners, latent_diffusion


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return latent_diffusion.config(
        first_stage=vq_f8.get_config(),
        backbone=latent_diffusion.transformer_unet(
            model_channels=256,
            channel_mult=(1, 2, 4),
            attention_resolutions=(4, 2, 1),
            num_heads=1,
        ),
        conditioner=conditioners.class_label(
            num_classes=1000, embed_dim=512, has_null=False
        ),
        beta_end=0.0195,
        batch_size=64,
        learning_rate=6.4e-5,
        num_steps=4_800_000,
        crop="random",
    )
