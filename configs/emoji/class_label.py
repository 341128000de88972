"""Class to picture: the eight categories of emoji64, added to the time embedding.

    python train.py --config=configs/emoji/class_label.py --workdir=runs/tasks/class_label \
        --config.autoencoder.checkpoint=runs/emoji_kl_f4
    python sample.py --checkpoint=runs/tasks/class_label --class_label="Food & Drink"
"""

from ml_collections import ConfigDict

from configs.parts import conditioners, emoji


def get_config(arg: str = "") -> ConfigDict:
    del arg
    conditioner = conditioners.class_label(
        num_classes=8, embed_dim=0, has_null=True, drop_rate=0.1
    )
    conditioner.slot = "vector"  # as wide as the time embedding: embed_dim is ignored
    return emoji.config(conditioner=conditioner, guidance_scale=3.0, cache=True)
