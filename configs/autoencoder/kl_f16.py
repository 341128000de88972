"""First stage f = 16, KL-regularised: 256x256x3 -> 16x16x16.

Rombach et al. 2022, table 8 (trained on OpenImages, evaluated on ImageNet val):
R-FID 0.87, PSNR 24.08, PSIM 1.07, SSIM 0.68 after 442,998 steps. 69,610,963 parameters.

    python train.py --config=configs/autoencoder/kl_f16.py --workdir=runs/kl_f16 \
        --config.data.source=folder:/path/to/images
"""

from ml_collections import ConfigDict

from configs.parts import first_stage


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return first_stage.kl(
        ch_mult=(1, 1, 2, 2, 4),
        channels=16,
        attn_resolutions=(16,),
        batch_size=6,
    )
