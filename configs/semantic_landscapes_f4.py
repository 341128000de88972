"""LDM-4, label map to landscape at 256x256, on the latents of vq_f4 (64x64x3).

Rombach et al. 2022, table 15: 360k steps at batch 48, learning rate 4.8e-5; no score (the
table prints f = 8, the released model has f = 4). `:512` is the model released for 512x512,
at batch 8, learning rate 8e-6.
215,229,315 parameters beside the label mapper's 546 and the first stage's 55,322,782.
Labels are the 182 of COCO-stuff: the map of a/b.jpg is a/b.png in the folder of label
PNGs, of the picture's own size; other values, such as 255, are no class. Attention only
in the middle: the published factors 32, 16 and 8 are reached by no level.

    python train.py --config=configs/semantic_landscapes_f4.py --workdir=runs/landscapes \\
        --config.data.source=folder:/path/to/images \\
        --config.data.segmentation=/path/to/labels \\
        --config.autoencoder.checkpoint=runs/vq_f4
"""

from ml_collections import ConfigDict

from configs.autoencoder import vq_f4
from configs.parts import conditioners, latent_diffusion


def get_config(arg: str = "256") -> ConfigDict:
    config = latent_diffusion.config(
        first_stage=vq_f4.get_config(),
        backbone=latent_diffusion.unet(
            model_channels=128,
            channel_mult=(1, 4, 8),
            attention_resolutions=(),
            num_heads=8,
        ),
        conditioner=conditioners.spatial_rescaler(num_classes=182),
        beta_end=0.0205,
        loss="l1",
        batch_size=48,
        learning_rate=4.8e-5,
        num_steps=360_000,
        crop="random",
        segmentation="",  # the folder of label PNGs, unless the source brings maps
    )
    if arg == "512":
        config.data.update({"image_size": 512, "resize": "smallest_768"})
        config.train.update({"batch_size": 8, "learning_rate": 8e-6})
    return config
