"""LDM-4, inpainting (inpainting_big), on the latents of vq_f4_noattn (64x64x3).

Rombach et al. 2022, table 7: FID 9.39, LPIPS 0.246 on Places 512x512 with 40-50% masked,
FID 1.50, LPIPS 0.137 over all ("LDM-4 big, with fine-tuning"; 50 DDIM steps, eta 0),
trained on 256x256 crops of Places at batch 128, learning rate 1e-6 before its schedule.
387,245,827 parameters beside the first stage's 53,219,486. The U-Net reads the noisy
latent, the masked picture's latent and the hole: seven channels.

    python train.py --config=configs/inpaint_f4.py --workdir=runs/inpaint \
        --config.data.source=folder:/path/to/images \
        --config.autoencoder.checkpoint=runs/vq_f4_noattn
"""

from ml_collections import ConfigDict

from configs.autoencoder import vq_f4_noattn
from configs.parts import conditioners, latent_diffusion


def get_config(arg: str = "") -> ConfigDict:
    del arg
    config = latent_diffusion.config(
        first_stage=vq_f4_noattn.get_config(),
        backbone=latent_diffusion.unet(
            model_channels=256,
            channel_mult=(1, 2, 3, 4),
            attention_resolutions=(8, 4, 2),
            num_heads=8,
            resampling="resblock",
        ),
        conditioner=conditioners.inpainting("latent_first"),
        beta_end=0.0205,
        loss="l1",
        batch_size=128,
        learning_rate=1e-6,
        num_steps=360_000,
        crop="random",
        holes="lama",  # strokes and boxes by halves: docs/conditions.md
    )
    # As published, for all that it was made for a base rate of 1: the peak is 1e-7.
    config.optimizer.schedule = {
        "name": "lambda_warmup_cosine",
        "warmup_steps": 1000,
        "decay_steps": 50_000,
        "start_scale": 0.001,
        "max_scale": 0.1,
        "min_scale": 0.0001,
    }
    return config
