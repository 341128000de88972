"""What this machine has for ldm_jax, what it lacks, and how to get it.

python -m ldm_jax.doctor
python -m ldm_jax.doctor --config=configs/ffhq_f4.py --device_gib=80

Devices, versions, caches, weights, how fast pictures are read; with a config also the
largest batch that fits and the change that would help most. Ends with 0 whatever it finds.
"""

# pyright: reportArgumentType=false

import functools

from absl import flags

from ldm_jax import config as config_lib
from ldm_jax import shipped

CONFIG = config_lib.define_config_flag()
SOURCE = flags.DEFINE_string(
    "source", None, "Pictures to read, as config.data.source; the config's, or emoji64."
)
SECONDS = flags.DEFINE_float(
    "seconds", 3.0, "How long to read pictures for; 0 leaves it out.", 0
)
DEVICE_GIB = flags.DEFINE_float(
    "device_gib",
    None,
    "Memory of a device to plan for, instead of that of this one.",
    0,
)


def main() -> None:
    # After the flags, so that --help and a mistyped flag answer at once.
    from ldm_jax.doctor import machine, rate, room, sections, weights

    config = CONFIG.value
    chosen = {
        "devices": machine.devices,
        "versions": machine.versions,
        "caches": machine.caches,
        "weights and models": weights.files,
        "optional packages": weights.packages,
    }
    if SECONDS.value:
        measure = functools.partial(rate.measure, config, SOURCE.value, SECONDS.value)
        chosen["reading pictures"] = measure
    if config is not None:
        plan = functools.partial(room.describe, config, DEVICE_GIB.value)
        chosen["what fits"] = plan
    for name, examine in chosen.items():
        print(sections.render(name, examine), flush=True)


if __name__ == "__main__":
    shipped.make_configs_importable()
    config_lib.run_cli(main)
