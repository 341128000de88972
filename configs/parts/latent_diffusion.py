"""What the published latent diffusion models share."""

from ml_collections import ConfigDict

from configs.parts import conditioners, training


def config(
    *,
    first_stage: ConfigDict,
    backbone: ConfigDict,
    conditioner: ConfigDict | None = None,
    tokenizer: ConfigDict | None = None,
    beta_start: float = 0.0015,
    beta_end: float,
    latent_scale: float = 1.0,
    loss: str = "l2",
    batch_size: int,
    learning_rate: float,
    num_steps: int,
    image_size: int = 256,
    resize: str = "smallest",
    crop: str = "center",
    flip_rate: float = 0.0,
    **task_data,
) -> ConfigDict:
    """An LDM, unconditional without `conditioner`; `first_stage` is a whole config.

    `task_data` are fields of the data section that only some conditions need, such as
    `degradation`, `holes`, `segmentation`, `layout`, `neighbors` and `crop_scale`.
    """
    config = ConfigDict()
    config.task = "denoising"
    config.autoencoder = first_stage.autoencoder.copy_and_resolve_references()
    config.autoencoder.checkpoint = ""  # the workdir of the trained first stage
    config.latent = ConfigDict(
        {
            "scale": latent_scale,  # latents are multiplied by it before diffusion
            "scale_by_std": False,  # measure 1/std on the first batch instead
            "cache": False,  # keep the latents of the whole data set on disk
        }
    )
    config.backbone = backbone
    config.conditioner = conditioner or ConfigDict({"name": "none"})
    config.tokenizer = tokenizer or conditioners.tokenizer("none")
    config.diffusion = ConfigDict(
        {
            "schedule": {
                "name": "linear",  # in sqrt(beta)
                "num_timesteps": 1000,
                "beta_start": beta_start,
                "beta_end": beta_end,
                "zero_terminal_snr": False,  # True needs v, x0 or velocity
            },
            "prediction": "eps",
            "loss": {"name": loss},
            "weighting": {"name": "simple"},
            "time_sampling": {"name": "uniform"},
            "original_elbo_weight": 0.0,
            "offset_noise": 0.0,
            "learn_log_variance": False,
        }
    )
    config.sampler = ConfigDict(
        {
            "name": "ddim",
            "num_steps": 50,
            "eta": 0.0,
            "grid": "trailing",  # the original: ddim_uniform, final first
            "final": "clean",
            "guidance_scale": 1.0,
            "guidance_rescale": 0.0,
            "guidance_interval": (0.0, 1.0),
        }
    )
    config.data = training.data(
        image_size=image_size, resize=resize, crop=crop, flip_rate=flip_rate
    )
    config.data.update(task_data)
    config.optimizer = training.adamw()
    config.train = training.train(
        num_steps=num_steps, batch_size=batch_size, learning_rate=learning_rate
    )
    config.evaluation = training.evaluation(metric="fid")
    config.mesh = training.mesh()
    return config


def unet(
    *,
    model_channels: int,
    channel_mult: tuple[int, ...],
    attention_resolutions: tuple[int, ...],
    **choices,
) -> ConfigDict:
    """The denoiser; `choices` are further fields of `ldm_jax.backbones.unet.UNet`."""
    return ConfigDict(
        {
            "name": "unet",
            "model_channels": model_channels,
            "channel_mult": channel_mult,
            "num_res_blocks": 2,
            "attention_resolutions": attention_resolutions,  # downsampling factors
            "dropout": 0.0,
            "remat": "none",  # "blocks" trades time for memory
            **choices,
        }
    )


def transformer_unet(**fields) -> ConfigDict:
    """The same with transformers, which read the conditioner's tokens."""
    return unet(attention="transformer", **fields)
