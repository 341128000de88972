"""Label map to picture: scenes of emoji whose category is known at every pixel.

    python train.py --config=configs/emoji/semantic.py --workdir=runs/tasks/semantic \
        --config.autoencoder.checkpoint=runs/emoji_kl_f4
    python sample.py --checkpoint=runs/tasks/semantic --segmentation=map.png

map.png: grey values 0 to 7 for the categories, 8 for the background.
"""

from ml_collections import ConfigDict

from configs.parts import conditioners, emoji


def get_config(arg: str = "") -> ConfigDict:
    del arg
    conditioner = conditioners.spatial_rescaler(num_classes=9)
    conditioner.out_channels = 8  # the published 3 learn slowly to tell nine classes
    return emoji.config(source="emoji_scenes", conditioner=conditioner)
