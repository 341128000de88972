"""Retrieval-augmented: the EfficientNet embeddings of a picture's four nearest neighbours.

    python tools/build_retrieval_index.py --source=emoji64 --network=efficientnet_lite0 \
        --image_size=64 --output=runs/emoji_index
    python train.py --config=configs/emoji/retrieval.py --workdir=runs/tasks/retrieval \
        --config.autoencoder.checkpoint=runs/emoji_kl_f4 \
        --config.data.neighbors=runs/emoji_index
    python sample.py --checkpoint=runs/tasks/retrieval --query_image=a.png
"""

from ml_collections import ConfigDict

from configs.parts import conditioners, emoji


def get_config(arg: str = "") -> ConfigDict:
    del arg
    conditioner = conditioners.neighbors(embed_dim=1280, num_tokens=4)
    conditioner.drop_rate = 0.1
    return emoji.config(
        conditioner=conditioner, guidance_scale=3.0, cache=True, neighbors=""
    )
