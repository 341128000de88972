"""The task models' denoiser without a condition: what they are compared with.

`:emoji_scenes` for the tasks on composed scenes, else drawings of emoji64;
`:emoji64:1500` for as many steps as a task that takes longer has.

    python train.py --config=configs/emoji/unconditional.py:emoji64 \
        --workdir=runs/tasks/unconditional_emoji64 \
        --config.autoencoder.checkpoint=runs/emoji_kl_f4
    python sample.py --checkpoint=runs/tasks/unconditional_emoji64
"""

from ml_collections import ConfigDict

from configs.parts import emoji


def get_config(arg: str = "emoji64") -> ConfigDict:
    source, _, steps = arg.partition(":")
    return emoji.config(
        source=source,
        cache=source == "emoji64",
        num_steps=int(steps or emoji.NUM_STEPS),
    )
