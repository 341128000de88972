"""The task models' denoiser without a condition: what they are compared with.

`:emoji64` and `:emoji_scenes` for the tasks on drawings and on scenes; `:text` and
`:layout`, which train longer, for these.

    python train.py --config=configs/emoji/unconditional.py:emoji64 \
        --workdir=runs/tasks/unconditional_emoji64 \
        --config.autoencoder.checkpoint=runs/emoji_kl_f4
    python sample.py --checkpoint=runs/tasks/unconditional_emoji64
"""

from ml_collections import ConfigDict

from configs.emoji import layout, text
from configs.parts import conditioners, emoji

OWN = {"text": text.get_config, "layout": layout.get_config}


def get_config(arg: str = "emoji64") -> ConfigDict:
    if arg not in OWN:
        return emoji.config(source=arg, cache=arg == "emoji64")
    config = OWN[arg]()
    config.conditioner = ConfigDict({"name": "none"})
    config.tokenizer = conditioners.tokenizer("none")
    config.sampler.guidance_scale = 1.0
    return config
