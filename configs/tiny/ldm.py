"""A class-conditional latent diffusion model of a few thousand parameters.

python train.py --config=configs/tiny/ldm.py --workdir=runs/tiny_ldm \
    --config.autoencoder.checkpoint=runs/tiny_ae
"""

from ml_collections import ConfigDict

from configs.parts import latent_diffusion
from configs.tiny import autoencoder


def get_config(arg: str = "kl") -> ConfigDict:
    first_stage = autoencoder.get_config(arg)
    config = latent_diffusion.config(
        first_stage=first_stage,
        backbone=latent_diffusion.unet(
            model_channels=8,
            channel_mult=(1, 2),
            attention_resolutions=(2,),
            num_res_blocks=1,
            num_head_channels=8,
            num_groups=4,
        ),
        beta_end=0.0195,
        batch_size=8,
        learning_rate=1e-3,
        num_steps=6,
    )
    config.backbone.dropout = 0.1
    config.conditioner = ConfigDict(
        {"name": "class_label", "num_classes": 8, "slot": "vector", "drop_rate": 0.1}
    )
    config.latent.scale_by_std = True
    config.data = first_stage.data
    config.sampler.update({"num_steps": 4, "guidance_scale": 2.0})
    config.train = first_stage.train
    config.train.ema_decay = 0.9999
    return config
