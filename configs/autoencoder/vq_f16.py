"""First stage f = 16, vector-quantised (16384 codes): 256x256x3 -> 16x16x8.

Rombach et al. 2022, table 8 (trained on OpenImages, evaluated on ImageNet val):
R-FID 5.15, PSNR 20.83, PSIM 1.73, SSIM 0.54 after 1,101,166 steps. 69,593,371 parameters.

    python train.py --config=configs/autoencoder/vq_f16.py --workdir=runs/vq_f16 \
        --config.data.source=folder:/path/to/images
"""

from ml_collections import ConfigDict

from configs.parts import first_stage


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return first_stage.vq(
        ch_mult=(1, 1, 2, 2, 4),
        channels=8,
        num_embeddings=16384,
        attn_resolutions=(16,),
        disc_start=250_001,
        disc_layers=2,
        batch_size=14,
    )
