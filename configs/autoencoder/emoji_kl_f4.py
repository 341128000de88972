"""The demo's first stage f = 4, KL-regularised: 64x64x3 -> 16x16x3, on emoji64.

Small enough to be trained from scratch on two CPU cores in a few minutes.

    python train.py --config=configs/autoencoder/emoji_kl_f4.py --workdir=runs/emoji_kl_f4
"""

from ml_collections import ConfigDict

from configs.parts import first_stage


def get_config(arg: str = "") -> ConfigDict:
    del arg
    config = first_stage.kl(ch_mult=(1, 2, 4), channels=3, batch_size=16)
    config.autoencoder.update({"ch": 32, "num_res_blocks": 1, "resolution": 64})
    config.autoencoder.num_groups = 8
    config.adversarial.name = "none"  # a discriminator needs more steps than these
    config.loss.perceptual_crop = 32
    config.data.update(
        {
            "source": "emoji64",
            "image_size": 64,
            "resize": "smallest",
            "crop": "center",
            "flip_rate": 0.5,
        }
    )
    config.optimizer.update({"b1": 0.9, "b2": 0.99})
    config.optimizer.schedule = {
        "name": "lambda_warmup_cosine",
        "warmup_steps": 20,
        "decay_steps": 200,
        "min_scale": 0.01,
    }
    config.train.update(
        {
            "num_steps": 200,
            "learning_rate": 1e-3,
            "log_every": 10,
            "preview_every": 100,
            "evaluate_every": 100,
            "checkpoint_every": 100,
        }
    )
    return config
