"""Draw pictures from a trained latent diffusion model.

python sample.py --checkpoint=runs/emoji_f4 --num_samples=16 --steps=50 --outdir=samples/

Writes 00000.png, 00001.png, ..., grid.png, samples.json (every setting: the same command
gives the same pixels) and, with --npz, samples.npz (uint8 [n, h, w, 3]).
"""

import json
import math
from pathlib import Path

import numpy as np
from absl import flags

from ldm_jax import config as config_lib

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Workdir of the trained model.")
STEP = flags.DEFINE_integer(
    "checkpoint_step", None, "Which checkpoint; newest if left out."
)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 16, "How many pictures.", 1)
SAMPLER = flags.DEFINE_string(
    "sampler", None, "ddim or ddpm; the config's if left out."
)
STEPS = flags.DEFINE_integer("steps", None, "Sampling steps; the config's if left out.")
ETA = flags.DEFINE_float("eta", None, "DDIM's noise: 0 deterministic, 1 as DDPM.")
GRID = flags.DEFINE_string(
    "grid", None, "Which timesteps: trailing, leading, power, ddim_uniform, ddim_quad."
)
GUIDANCE_SCALE = flags.DEFINE_float(
    "guidance_scale", None, "Classifier-free guidance; 1 is none."
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of all randomness.")
OUTDIR = flags.DEFINE_string("outdir", "samples", "Where the pictures go.")
CLASS_LABEL = flags.DEFINE_multi_string(
    "class_label", None, "Class number or name; repeat it for several."
)
PROMPT = flags.DEFINE_multi_string("prompt", None, "Text; repeat it for several.")
HEIGHT = flags.DEFINE_integer("height", None, "Pixels; the training size if left out.")
WIDTH = flags.DEFINE_integer("width", None, "Pixels; the training size if left out.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Pictures at a time.", 1)
NPZ = flags.DEFINE_bool("npz", False, "Write samples.npz as well.")
NO_EMA = flags.DEFINE_bool("no_ema", False, "Raw weights instead of averaged ones.")


def main() -> None:
    # After the flags, so that --help and a mistyped flag answer at once.
    from PIL import Image

    import ldm_jax
    from ldm_jax.arrays import image_grid

    model = ldm_jax.load(CHECKPOINT.value, step=STEP.value, ema=not NO_EMA.value)
    _check_conditioning(model)
    settings = _settings()
    pixels = model.sample(**settings)
    outdir = Path(OUTDIR.value)
    outdir.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pixels):
        Image.fromarray(picture).save(outdir / f"{index:05d}.png")
    grid = image_grid(pixels, columns=math.ceil(math.sqrt(len(pixels))))
    Image.fromarray(grid).save(outdir / "grid.png")
    if NPZ.value:
        np.savez(outdir / "samples.npz", pixels)
    record = {
        "checkpoint": CHECKPOINT.value,
        "checkpoint_step": model.step,
        "ema": not NO_EMA.value,
        **settings,
    }
    (outdir / "samples.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{len(pixels)} pictures in {outdir}, all of them in {outdir / 'grid.png'}")


def _settings() -> dict:
    """The flags that were given, as arguments of `Model.sample`."""
    options = {
        "sampler": SAMPLER.value,
        "steps": STEPS.value,
        "eta": ETA.value,
        "grid": GRID.value,
        "height": HEIGHT.value,
        "width": WIDTH.value,
        "guidance_scale": GUIDANCE_SCALE.value,
        "class_labels": CLASS_LABEL.value,
    }
    given = {name: value for name, value in options.items() if value is not None}
    return {
        "num_samples": NUM_SAMPLES.value,
        "seed": SEED.value,
        "batch_size": BATCH_SIZE.value,
        **given,
    }


def _check_conditioning(model) -> None:
    """A condition that the model does not take is refused, with those it does take."""
    given = {"class_label": CLASS_LABEL.value, "prompt": PROMPT.value}
    fields = {"class_label": "class_label", "prompt": "tokens"}
    for name, value in given.items():
        if value and fields[name] not in model.conditioning_fields:
            takes = [n for n, f in fields.items() if f in model.conditioning_fields]
            raise ValueError(
                f"--{name} does not apply: this model takes "
                + (" or ".join(f"--{n}" for n in takes) or "no condition")
            )


if __name__ == "__main__":
    config_lib.run_cli(main, required=("checkpoint",))
