"""First stage f = 32, KL-regularised: 256x256x3 -> 8x8x64.

Rombach et al. 2022, table 8 (trained on OpenImages, evaluated on ImageNet val):
R-FID 2.04, PSNR 22.27, PSIM 1.41, SSIM 0.61 after 406,763 steps. 103,880,131 parameters.

    python train.py --config=configs/autoencoder/kl_f32.py --workdir=runs/kl_f32 \
        --config.data.source=folder:/path/to/images
"""

from ml_collections import ConfigDict

from configs.parts import first_stage


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return first_stage.kl(
        ch_mult=(1, 1, 2, 2, 4, 4),
        channels=64,
        attn_resolutions=(16, 8),
        batch_size=6,
    )
