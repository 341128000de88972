"""First stage f = 4, vector-quantised (8192 codes): 256x256x3 -> 64x64x3.

Rombach et al. 2022, table 8 (trained on OpenImages, evaluated on ImageNet val):
R-FID 0.58, PSNR 27.43, PSIM 0.53, SSIM 0.82 after 533,066 steps. 55,322,782 parameters.

    python train.py --config=configs/autoencoder/vq_f4.py --workdir=runs/vq_f4 \
        --config.data.source=folder:/path/to/images
"""

from ml_collections import ConfigDict

from configs.parts import first_stage


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return first_stage.vq(
        ch_mult=(1, 2, 4),
        channels=3,
        num_embeddings=8192,
        disc_start=0,
        batch_size=8,
    )
