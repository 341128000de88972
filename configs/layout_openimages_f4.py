"""LDM-4, layout to image on OpenImages 256x256, on the latents of vq_f4.

Rombach et al. 2022, tables 9 and 15: FID 32.02 (200 DDIM steps, 2048 pictures) after 4.4M
steps at batch 24, learning rate 4.8e-5.
246,277,379 parameters beside the layout transformer's 54,656,000 (512 wide, 16 layers)
and the first stage's 55,322,782. A layout is 92 tokens of a vocabulary of 8192: thirty
objects (class, top left, bottom right) and the crop; pictures have 2 to 30 objects. The
file is in COCO's format, or a folder of train.json and val.json. One attention head, as the model was
trained; see imagenet_f8.

    python train.py --config=configs/layout_openimages_f4.py --workdir=runs/layout \
        --config.data.source=folder:/path/to/images \
        --config.data.layout=/path/to/instances.json \
        --config.autoencoder.checkpoint=runs/vq_f4
"""

from ml_collections import ConfigDict

from configs.autoencoder import vq_f4
from configs.parts import conditioners, latent_diffusion


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return latent_diffusion.config(
        first_stage=vq_f4.get_config(),
        backbone=latent_diffusion.transformer_unet(
            model_channels=128,
            channel_mult=(1, 2, 3, 4),
            attention_resolutions=(8, 4, 2),
            num_heads=1,
            transformer_depth=3,
        ),
        conditioner=conditioners.token_transformer(
            embed_dim=512, num_layers=16, vocab_size=8192, max_length=92
        ),
        tokenizer=conditioners.layout_tokenizer(max_objects=30),
        beta_end=0.0205,
        loss="l1",
        batch_size=24,
        learning_rate=4.8e-5,
        num_steps=4_400_000,
        resize="smallest_antialias",
        crop="random",
        crop_scale=(0.0, 1.0),  # a square of at least image_size pixels
        flip_rate=0.5,
        layout="",  # the file with boxes, unless the source brings layouts
        num_objects=(2, 30),  # pictures with fewer or more are left out
    )
