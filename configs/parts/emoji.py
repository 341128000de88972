"""What the task models of configs/emoji share: first stage, denoiser, length of training."""

from ml_collections import ConfigDict

from configs.autoencoder import emoji_kl_f4
from configs.parts import latent_diffusion

NUM_STEPS = 600


def config(
    *,
    source: str = "emoji64",
    conditioner: ConfigDict | None = None,
    tokenizer: ConfigDict | None = None,
    guidance_scale: float = 1.0,
    cache: bool = False,
    num_steps: int = NUM_STEPS,
    num_levels: int = 2,
    **task_data,
) -> ConfigDict:
    """A small latent diffusion model on the demo's 16x16x4 latents.

    The tasks have the same denoiser, so that what a condition is worth can be told by
    training one without; its transformers attend to themselves where there are no tokens.

    Args:
      source: "emoji64", or "emoji_scenes" for what is composed of these drawings.
      guidance_scale: of previews and samples; above 1 only if the condition can be left
        out.
      cache: keep the latents on disk, for conditions that are not made of the pixels.
      num_steps: of the training; a condition that only a transformer can read is heard
        later than one laid out on the picture.
      num_levels: of the denoiser, 16x16, 8x8 and 4x4; on the small grids the border,
        and with it each place, is known after few layers.
      task_data: further fields of the data section.
    """
    first_stage = emoji_kl_f4.get_config()
    config = latent_diffusion.config(
        first_stage=first_stage,
        backbone=latent_diffusion.transformer_unet(
            model_channels=32,
            channel_mult=(1, 2, 2)[:num_levels],
            attention_resolutions=(2, 4)[: num_levels - 1],
            num_res_blocks=1,
            num_head_channels=32,
        ),
        conditioner=conditioner,
        tokenizer=tokenizer,
        beta_end=0.0195,
        batch_size=16,
        learning_rate=2e-3,
        num_steps=num_steps,
    )
    config.diffusion.prediction = "v"  # shapes and colours come earlier than with eps
    config.latent.update({"scale_by_std": True, "cache": cache})
    config.data = first_stage.data
    config.data.update({"source": source, "num_validation": 500, **task_data})
    config.sampler.guidance_scale = guidance_scale
    config.optimizer.schedule = {
        "name": "lambda_warmup_cosine",
        "warmup_steps": 20,
        "decay_steps": num_steps,
        "min_scale": 0.02,
    }
    config.train.update(
        {
            "ema_decay": 0.99,
            "init": "unit_gain",
            "log_every": 20,
            "preview_every": 0,  # make tasks draws pictures at the end
            "evaluate_every": num_steps,
            "checkpoint_every": 200,
        }
    )
    return config
