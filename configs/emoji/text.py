"""Text to picture: names of emoji such as "red heart, 3d" or "cat face, flat".

A transformer of one layer reads word pieces of a vocabulary that is made of the training's
own captions and kept in the workdir; it learns beside the denoiser.

    python train.py --config=configs/emoji/text.py --workdir=runs/tasks/text \
        --config.autoencoder.checkpoint=runs/emoji_kl_f4
    python sample.py --checkpoint=runs/tasks/text --prompt="blue heart, flat"
"""

from ml_collections import ConfigDict

from configs.parts import conditioners, emoji


def get_config(arg: str = "") -> ConfigDict:
    del arg
    conditioner = conditioners.token_transformer(
        embed_dim=64, num_layers=1, drop_rate=0.1
    )
    conditioner.update({"num_heads": 4, "head_dim": 16})
    return emoji.config(
        conditioner=conditioner,
        tokenizer=conditioners.own_tokenizer(vocab_size=1000, max_length=16),
        guidance_scale=3.0,
        cache=True,
        num_steps=1200,
    )
