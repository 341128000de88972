"""The published first stages: what they share, and what each of them chooses."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.parts import training

BASE_LEARNING_RATE = 4.5e-6  # per picture in the batch, as in the original's --scale_lr


def kl(
    *,
    ch_mult: tuple[int, ...],
    channels: int,
    attn_resolutions: tuple[int, ...] = (),
    batch_size: int,
) -> ConfigDict:
    """An LDM first stage with a KL-regularised Gaussian latent of `channels` channels."""
    autoencoder = _architecture(ch_mult, channels, attn_resolutions)
    autoencoder.update({"name": "kl"})
    config = _config(autoencoder, batch_size)
    config.loss.update({"nll_reduction": "sum", "regularizer_weight": 1e-6})
    config.adversarial.update({"disc_start": 50_001, "disc_weight": 0.5})
    return config


def vq(
    *,
    ch_mult: tuple[int, ...],
    channels: int,
    num_embeddings: int,
    attn_resolutions: tuple[int, ...] = (),
    mid_attention: bool = True,
    disc_start: int,
    disc_weight: float = 0.75,
    disc_layers: int = 3,
    batch_size: int,
) -> ConfigDict:
    """An LDM first stage with a vector-quantised latent of `channels` channels."""
    autoencoder = _architecture(ch_mult, channels, attn_resolutions)
    autoencoder.update(
        {
            "name": "vq",
            "mid_attention": mid_attention,
            "num_embeddings": num_embeddings,
            "beta": 0.25,
            "codebook_loss": "legacy",  # the published models put beta on the other term
        }
    )
    config = _config(autoencoder, batch_size)
    config.loss.update({"nll_reduction": "mean", "regularizer_weight": 1.0})
    config.adversarial.update(
        {
            "disc_start": disc_start,
            "disc_weight": disc_weight,
            "num_layers": disc_layers,
        }
    )
    return config


def _architecture(
    ch_mult: tuple[int, ...], channels: int, attn_resolutions: tuple[int, ...]
) -> ConfigDict:
    return ConfigDict(
        {
            "ch": 128,
            "ch_mult": ch_mult,
            "num_res_blocks": 2,
            "attn_resolutions": attn_resolutions,
            "resolution": 256,  # decides where attn_resolutions fall, not the input size
            "z_channels": channels,
            "embed_dim": channels,
            "mid_attention": True,
            "dropout": 0.0,
            "remat": "none",  # "blocks" trades time for memory
        }
    )


def _config(autoencoder: ConfigDict, batch_size: int) -> ConfigDict:
    config = ConfigDict()
    config.task = "autoencoding"
    config.autoencoder = autoencoder
    config.loss = ConfigDict(
        {
            "pixel_loss": "l1",
            "perceptual_weight": 1.0,
            "perceptual_weights_path": "",  # searched for if empty
            "perceptual_crop": placeholder(int),  # None: LPIPS of the whole image
            "logvar": 0.0,
        }
    )
    config.adversarial = ConfigDict(
        {
            "name": "patchgan",  # "none" trains without a discriminator
            "disc_loss": "hinge",
            "disc_factor": 1.0,
            "num_layers": 3,
            "ndf": 64,
        }
    )
    config.data = training.data(
        image_size=256, resize="smallest_384", crop="random", flip_rate=0.0
    )
    config.optimizer = training.adam()
    config.train = training.train(
        num_steps=500_000,
        batch_size=batch_size,
        learning_rate=BASE_LEARNING_RATE * batch_size,
    )
    config.train.ema_decay = 0.0  # the published first stages keep no average
    config.evaluation = training.evaluation(metric="rfid")
    config.mesh = training.mesh()
    return config
