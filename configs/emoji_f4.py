"""The demo's latent diffusion model on emoji64: 16x16x4 latents of emoji_kl_f4.

Conditional on the eight categories, so that guidance has something to do; small enough
to be trained from scratch on two CPU cores in a few minutes.

    python train.py --config=configs/emoji_f4.py --workdir=runs/emoji_f4 \
        --config.autoencoder.checkpoint=runs/emoji_kl_f4
"""

from ml_collections import ConfigDict

from configs.autoencoder import emoji_kl_f4
from configs.parts import latent_diffusion


def get_config(arg: str = "") -> ConfigDict:
    del arg
    first_stage = emoji_kl_f4.get_config()
    config = latent_diffusion.config(
        first_stage=first_stage,
        backbone=latent_diffusion.unet(
            model_channels=64,
            channel_mult=(1, 2, 2),
            attention_resolutions=(2, 4),
            num_res_blocks=1,
            num_head_channels=32,
        ),
        beta_end=0.0195,
        batch_size=32,
        learning_rate=1e-3,
        num_steps=900,
    )
    config.conditioner = ConfigDict(
        {
            "name": "class_label",
            "num_classes": 8,
            "slot": "vector",
            "has_null": True,
            "drop_rate": 0.1,
        }
    )
    config.diffusion.prediction = "v"  # shapes and colours come earlier than with eps
    config.latent.update({"scale_by_std": True, "cache": True})
    config.data = first_stage.data
    config.sampler.guidance_scale = 2.0
    config.optimizer.schedule = {
        "name": "lambda_warmup_cosine",
        "warmup_steps": 20,
        "decay_steps": 900,
        "min_scale": 0.02,
    }
    config.train.update(
        {
            "ema_decay": 0.99,
            "init": "unit_gain",
            "log_every": 20,
            "preview_every": 300,
            "evaluate_every": 300,
            "checkpoint_every": 300,
        }
    )
    return config
