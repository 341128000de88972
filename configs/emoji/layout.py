"""Boxes with classes to picture: scenes of two to four emoji at known places.

Twelve tokens of a vocabulary of 512 (corners on a grid of 22x22), three for each object.

    python train.py --config=configs/emoji/layout.py --workdir=runs/tasks/layout \
        --config.autoencoder.checkpoint=runs/emoji_kl_f4
    python sample.py --checkpoint=runs/tasks/layout --layout=boxes.json

boxes.json: [{"class": "Food & Drink", "box": [0.1, 0.2, 0.4, 0.4]}, ...], shares of the
picture.
"""

from ml_collections import ConfigDict

from configs.parts import conditioners, emoji


def get_config(arg: str = "") -> ConfigDict:
    del arg
    conditioner = conditioners.token_transformer(
        embed_dim=64, num_layers=1, vocab_size=512, max_length=12, drop_rate=0.1
    )
    conditioner.update({"num_heads": 4, "head_dim": 16})
    return emoji.config(
        source="emoji_scenes",
        conditioner=conditioner,
        tokenizer=conditioners.layout_tokenizer(max_objects=4, encode_crop=False),
        guidance_scale=3.0,
    )
