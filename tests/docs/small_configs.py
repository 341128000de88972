"""A published config as the documentation's commands are tried with: narrow, two steps."""

from tests.published_models import narrow


def small(config):
    """`config` with few channels and small pictures, changed in place."""
    if "backbone" in config:
        num_classes = config.conditioner.get("num_classes")
        narrow(config)
        config.backbone.update({"channel_mult": (1,), "attention_resolutions": ()})
        if num_classes:  # those of emoji64 have names, which commands give
            config.conditioner.num_classes = num_classes
    else:
        num_levels = len(config.autoencoder.ch_mult)
        few = {"ch": 4, "num_groups": 2, "ch_mult": (1,) * num_levels}
        config.autoencoder.update(few | {"num_res_blocks": 1, "attn_resolutions": ()})
        if config.autoencoder.name == "vq":
            config.autoencoder.num_embeddings = 8
        config.loss.perceptual_crop = 16
        config.adversarial.num_layers = 1
        config.data.image_size = 4 * 2 ** (num_levels - 1)
        config.train.batch_size = 2
    config.optimizer.schedule = {"name": "constant"}
    config.train.update({"num_steps": 2, "preview_every": 0, "evaluate_every": 0})
    return config
