"""LDM-KL-8, text to image at 256x256 on the latents of kl_f8: the 1.45B LAION model.

Rombach et al. 2022, tables 2 and 15: FID 12.63, IS 30.29 on MS-COCO with guidance 1.5
(250 DDIM steps), FID 23.31, IS 20.03 without, after 390k steps at batch 680, learning
rate 1e-4, on LAION-400M.
872,300,484 parameters beside the text transformer's 542,895,360 (1280 wide, 32 layers,
trained from scratch over BERT's word pieces) and the first stage's 83,653,863. The rate
at which captions were dropped was never published; 0.1 is ours. The original samples with
guidance 5.

    python train.py --config=configs/text2img_1p4b.py --workdir=runs/text2img_1p4b \
        --config.data.source=folder:/path/to/images \
        --config.autoencoder.checkpoint=runs/kl_f8

Captions: a .txt beside each picture, or a captions.jsonl.
"""

from ml_collections import ConfigDict

from configs.autoencoder import kl_f8
from configs.parts import conditioners, latent_diffusion


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
        conditioner=conditioners.token_transformer(
            embed_dim=1280, num_layers=32, drop_rate=0.1
        ),
        tokenizer=conditioners.tokenizer("bert"),
        beta_start=0.00085,
        beta_end=0.012,
        latent_scale=0.18215,
        batch_size=680,
        learning_rate=1e-4,
        num_steps=390_000,
    )
    config.sampler.guidance_scale = 5.0
    return config
