"""First stage f = 4, vector-quantised (8192 codes) without attention: 256x256x3 -> 64x64x3.

Rombach et al. 2022, table 8 (trained on OpenImages, evaluated on ImageNet val):
R-FID 1.06, PSNR 25.21, PSIM 0.72, SSIM 0.76 after 658,131 steps. 53,219,486 parameters.

    python train.py --config=configs/autoencoder/vq_f4_noattn.py --workdir=runs/vq_f4_noattn \
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
        mid_attention=False,
        disc_start=11,
        batch_size=8,
    )
