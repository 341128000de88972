"""The demo's first stage f = 4, KL-regularised: 64x64x3 -> 16x16x4, on emoji64.

Small enough to be trained from scratch on two CPU cores in a few minutes.

    python train.py --config=configs/autoencoder/emoji_kl_f4.py --workdir=runs/emoji_kl_f4
"""

from ml_collections import ConfigDict

from configs.parts import first_stage


def get_config(arg: str = "") -> ConfigDict:
    del arg
    config = first_stage.kl(ch_mult=(1, 3, 6), channels=4, batch_size=8)
    config.autoencoder.update(
        {"ch": 16, "num_res_blocks": 1, "resolution": 64, "num_groups": 8}
    )
    config.autoencoder.quant_init = "identity"
    config.loss.perceptual_crop = 32  # VGG16's gradient would be most of the cost
    config.loss.regularizer_weight = 0.5  # latents that are easy to learn
    config.adversarial.name = "none"  # a discriminator needs more steps than these
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
        "decay_steps": 450,
        "min_scale": 0.01,
    }
    config.train.update(
        {
            "num_steps": 450,
            "learning_rate": 2e-3,
            "init": "unit_gain",
            "log_every": 20,
            "preview_every": 150,
            "evaluate_every": 150,
            "checkpoint_every": 150,
        }
    )
    return config
