"""Take a recorded step again, whose loss or gradient was not finite (docs/reliability.md).

python tools/replay_step.py --workdir=runs/ffhq --step=1234

Prints whether the metrics are those of the record, bit for bit, and the first array and
the first layer that are not finite. Run it on as many devices of the same kind.

Exit codes: 0 the metrics are those recorded, 1 they are not, 2 there is no such record.
"""

import sys
from pathlib import Path

from absl import flags

from ldm_jax import config as config_lib

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
STEP = flags.DEFINE_integer("step", None, "Of the record; the newest if left out.", 1)


def main() -> None:
    from ldm_jax.replay import replay

    found = replay(Path(str(WORKDIR.value)), STEP.value)
    print(found.describe())
    if found.differs:
        sys.exit(1)


if __name__ == "__main__":
    config_lib.run_cli(main, required=("workdir",))
