"""LDM-4 on LSUN-Bedrooms 256x256: an unconditional U-Net on the latents of vq_f4.

Rombach et al. 2022, tables 1 and 12: FID 2.95, precision 0.66, recall 0.48 (200 DDIM
steps, eta 1) after 1.9M steps at batch 48, learning rate 9.6e-5; 60 V100-days, one A100.
274,056,163 parameters beside the first stage's 55,322,782. Pictures are cut to their
central square, resized (bicubic) and flipped at random.

    python train.py --config=configs/lsun_bedrooms_f4.py --workdir=runs/bedrooms \
        --config.data.source=folder:/path/to/images \
        --config.autoencoder.checkpoint=runs/vq_f4
"""

from ml_collections import ConfigDict

from configs import ffhq_f4


def get_config(arg: str = "") -> ConfigDict:
    del arg
    config = ffhq_f4.get_config()
    config.data.update({"resize": "square_bicubic", "flip_rate": 0.5})
    config.train.update(
        {"batch_size": 48, "learning_rate": 9.6e-5, "num_steps": 1_900_000}
    )
    return config
