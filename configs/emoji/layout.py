"""Boxes with classes to picture: scenes of two to four emoji at known places.

Twelve tokens, three for each object, of a vocabulary of 82: corners on a grid of 9x9, so
that each is met often in a short training.

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
        embed_dim=64, num_layers=2, vocab_size=82, max_length=12, drop_rate=0.1
    )
    conditioner.update({"num_heads": 4, "head_dim": 16})
    tokenizer = conditioners.layout_tokenizer(max_objects=4, encode_crop=False)
    tokenizer.flags = ()  # the scenes have none
    return emoji.config(
        source="emoji_scenes",
        conditioner=conditioner,
        tokenizer=tokenizer,
        guidance_scale=3.0,
        num_steps=1200,
        num_levels=3,
    )
