"""First stage f = 8, KL-regularised: 256x256x3 -> 32x32x4.

Rombach et al. 2022, table 8 (trained on OpenImages, evaluated on ImageNet val):
R-FID 0.90, PSNR 24.19, PSIM 1.02, SSIM 0.69 after 246,803 steps. 83,653,863 parameters.

    python train.py --config=configs/autoencoder/kl_f8.py --workdir=runs/kl_f8 \
        --config.data.source=folder:/path/to/images
"""

from ml_collections import ConfigDict

from configs.parts import first_stage


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return first_stage.kl(
        ch_mult=(1, 2, 4, 4),
        channels=4,
        batch_size=4,
    )
