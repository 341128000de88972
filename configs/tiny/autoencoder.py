"""A first stage of a few thousand parameters, KL or VQ, with a discriminator.

python train.py --config=configs/tiny/autoencoder.py:vq --workdir=runs/tiny_ae
"""

from ml_collections import ConfigDict

from configs.parts import first_stage


def get_config(arg: str = "kl") -> ConfigDict:
    if arg == "vq":
        config = first_stage.vq(
            ch_mult=(1, 2), channels=3, num_embeddings=32, disc_start=2, batch_size=8
        )
    else:
        config = first_stage.kl(ch_mult=(1, 2), channels=3, batch_size=8)
        config.adversarial.disc_start = 2
    config.autoencoder.update({"ch": 8, "num_res_blocks": 1, "num_groups": 4})
    config.autoencoder.dropout = 0.1
    config.adversarial.update({"ndf": 8, "num_layers": 2})
    config.loss.perceptual_weight = 0.0
    config.data.update(
        {"source": "emoji64", "image_size": 32, "resize": "smallest", "flip_rate": 0.5}
    )
    config.data.num_validation = 8
    config.train.update(
        {
            "num_steps": 6,
            "learning_rate": 1e-3,
            "log_every": 1,
            "preview_every": 0,
            "evaluate_every": 0,
            "checkpoint_every": 2,
        }
    )
    return config
