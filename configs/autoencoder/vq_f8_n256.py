"""First stage f = 8, vector-quantised (256 codes): 256x256x3 -> 32x32x4.

Rombach et al. 2022, table 8 (trained on OpenImages, evaluated on ImageNet val):
R-FID 1.49, PSNR 22.35, PSIM 1.26, SSIM 0.62 after 1,608,649 steps. 67,652,783 parameters.

    python train.py --config=configs/autoencoder/vq_f8_n256.py --workdir=runs/vq_f8_n256 \
        --config.data.source=folder:/path/to/images
"""

from ml_collections import ConfigDict

from configs.parts import first_stage


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return first_stage.vq(
        ch_mult=(1, 2, 2, 4),
        channels=4,
        num_embeddings=256,
        attn_resolutions=(32,),
        disc_start=250_001,
        batch_size=10,
    )
