"""First stage f = 4, KL-regularised: 256x256x3 -> 64x64x3.

Rombach et al. 2022, table 8 (trained on OpenImages, evaluated on ImageNet val):
R-FID 0.27, PSNR 27.53, PSIM 0.55, SSIM 0.82 after 176,991 steps. 55,312,063 parameters.

    python train.py --config=configs/autoencoder/kl_f4.py --workdir=runs/kl_f4 \
        --config.data.source=folder:/path/to/images
"""

from ml_collections import ConfigDict

from configs.parts import first_stage


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return first_stage.kl(
        ch_mult=(1, 2, 4),
        channels=3,
        batch_size=10,
    )
