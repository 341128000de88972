"""The shipped demo model: text to 64x64 emoji, such as "red apple, 3d" or "cat face, flat".

A frozen sentence encoder reads the captions of emoji64, so that words which these do not
hold mean something too. assets/emoji_text/README.md says what came of it. From scratch,
without a GPU a matter of hours:

    python train.py --config=configs/autoencoder/emoji_kl_f4.py \
        --workdir=runs/emoji_kl_f4_long --config.train.num_steps=1600 \
        --config.optimizer.schedule.decay_steps=1600 --config.loss.regularizer_weight=0.1
    python train.py --config=configs/emoji_text.py --workdir=runs/emoji_text
"""

from ml_collections import ConfigDict

from configs.autoencoder import emoji_kl_f4
from configs.parts import conditioners, latent_diffusion

NUM_STEPS = 7000


def get_config(arg: str = "") -> ConfigDict:
    del arg
    first_stage = emoji_kl_f4.get_config()
    config = latent_diffusion.config(
        first_stage=first_stage,
        backbone=latent_diffusion.transformer_unet(
            model_channels=64,
            channel_mult=(1, 2, 2),
            attention_resolutions=(2, 4),
            num_res_blocks=1,
            num_head_channels=32,
        ),
        conditioner=conditioners.minilm(drop_rate=0.1),
        tokenizer=conditioners.minilm_tokenizer(),
        beta_end=0.0195,
        batch_size=16,
        learning_rate=8e-4,
        num_steps=NUM_STEPS,
    )
    config.autoencoder.checkpoint = "runs/emoji_kl_f4_long"
    config.diffusion.prediction = "v"  # shapes and colours come earlier than with eps
    config.latent.update({"scale_by_std": True, "cache": True})
    config.data = first_stage.data
    config.sampler.guidance_scale = 3.0
    config.optimizer.schedule = {
        "name": "lambda_warmup_cosine",
        "warmup_steps": 100,
        "decay_steps": NUM_STEPS,
        "min_scale": 0.02,
    }
    config.train.update(
        {
            "ema_decay": 0.999,
            "init": "unit_gain",
            "log_every": 50,
            "preview_every": 0,
            "evaluate_every": 1000,
            "checkpoint_every": 250,
        }
    )
    return config
