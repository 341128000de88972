"""LDM-4, text to image at 256x256, on the latents of vq_f4: the Conceptual Captions model.

Rombach et al. 2022 and its repository (text2img256): FID 16.79, IS 13.89 on Conceptual
Captions (100 DDIM steps, eta 0), trained at batch 28, learning rate 5.6e-5; its number of
steps was not published.
403,623,939 parameters beside the text transformer's 166,590,080 (640 wide, 32 layers,
trained from scratch over BERT's word pieces) and the first stage's 55,322,782. One
attention head, as the model was trained; see imagenet_f8.

    python train.py --config=configs/text2img_f4.py --workdir=runs/text2img_f4 \
        --config.data.source=folder:/path/to/images \
        --config.autoencoder.checkpoint=runs/vq_f4

Captions: a .txt beside each picture, or a captions.jsonl.
"""

from ml_collections import ConfigDict

from configs.autoencoder import vq_f4
from configs.parts import conditioners, latent_diffusion


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return latent_diffusion.config(
        first_stage=vq_f4.get_config(),
        backbone=latent_diffusion.transformer_unet(
            model_channels=192,
            channel_mult=(1, 2, 3, 5),
            attention_resolutions=(8, 4, 2),
            num_heads=1,
        ),
        conditioner=conditioners.token_transformer(embed_dim=640, num_layers=32),
        tokenizer=conditioners.tokenizer("bert"),
        beta_end=0.0195,
        batch_size=28,
        learning_rate=5.6e-5,
        num_steps=1_000_000,
    )
