"""Stable Diffusion v2 at 768x768, text to image on the latents of kl_f8 (96x96x4).

Stability AI's v2 series, its v-prediction model: as sd_v1, but for OpenCLIP ViT-H/14's
text encoder (the last layer but one), heads of 64 channels and linear layers around the
transformers. No row in the paper and no FID published as a number; batch and rate are
those of sd_v1, num_steps is ours.
865,910,724 parameters beside the frozen text encoder's 352,984,064 (12,596,224 of them in
the layer that is left out) and the first stage's 83,653,863.

    python train.py --config=configs/sd_v2.py --workdir=runs/sd_v2 \
        --config.data.source=folder:/path/to/images \
        --config.autoencoder.checkpoint=runs/sd_v2_released/autoencoder \
        --config.conditioner.checkpoint=runs/sd_v2_released
"""

from ml_collections import ConfigDict

from configs import sd_v1
from configs.parts import conditioners


def get_config(arg: str = "") -> ConfigDict:
    del arg
    config = sd_v1.get_config()
    del config.backbone.num_heads
    config.backbone.update(
        {"num_head_channels": 64, "transformer_projection": "linear"}
    )
    config.conditioner = conditioners.open_clip_vit_h(drop_rate=0.1)
    config.tokenizer = conditioners.tokenizer("clip", pad="!")
    config.diffusion.prediction = "v"
    config.data.image_size = 768
    return config
