"""First stage f = 8, vector-quantised (16384 codes): 256x256x3 -> 32x32x4.

Rombach et al. 2022, table 8 (trained on OpenImages, evaluated on ImageNet val):
R-FID 1.14, PSNR 23.07, PSIM 1.17, SSIM 0.65 after 971,043 steps. 67,717,295 parameters.

    python train.py --config=configs/autoencoder/vq_f8.py --workdir=runs/vq_f8 \
        --config.data.source=folder:/path/to/images
"""

from ml_collections import ConfigDict

from configs.parts import first_stage


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return first_stage.vq(
        ch_mult=(1, 2, 2, 4),
        channels=4,
        num_embeddings=16384,
        attn_resolutions=(32,),
        disc_start=1,
        disc_weight=0.6,
        disc_layers=2,
        batch_size=10,
    )
