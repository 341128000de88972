"""One picture per sampler: the same noise at 5, 10, 20 and 50 steps of a trained model.

python tools/sampler_gallery.py --checkpoint=runs/emoji_f4 --outdir=assets/docs/samplers

Rows are numbers of steps, columns are pictures; docs/samplers.md shows them.
"""

import time
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from ldm_jax import config as config_lib

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Workdir of the trained model.")
OUTDIR = flags.DEFINE_string("outdir", "assets/docs/samplers", "Where pictures go.")
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 8, "Columns.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.")
STEPS = (5, 10, 20, 50)


def main() -> None:
    import ldm_jax
    from ldm_jax.arrays import image_grid
    from ldm_jax.samplers import SAMPLERS

    model = ldm_jax.load(CHECKPOINT.value)
    outdir = Path(OUTDIR.value)
    outdir.mkdir(parents=True, exist_ok=True)
    for name in SAMPLERS:
        start = time.perf_counter()
        rows = [
            model.sample(NUM_SAMPLES.value, sampler=name, steps=steps, seed=SEED.value)
            for steps in STEPS
        ]
        grid = image_grid(np.concatenate(rows), columns=NUM_SAMPLES.value)
        Image.fromarray(grid).save(outdir / f"{name}.png")
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    config_lib.run_cli(main, required=("checkpoint",))
