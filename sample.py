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
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "How many pictures; one a prompt, else 16, if left out.", 1
)
SAMPLERS = (
    "ddpm, ddim, euler, euler_ancestral, heun, plms, dpmpp_2s, dpmpp_2m, dpmpp_sde_2m, "
    "unipc"
)
GRIDS = (
    "trailing, leading, linspace, time_uniform, power, ddim_uniform, ddim_quad, karras, "
    "log_snr, align_your_steps"
)
SAMPLER = flags.DEFINE_string("sampler", None, f"{SAMPLERS}; the config's if left out.")
STEPS = flags.DEFINE_integer("steps", None, "Sampling steps; the config's if left out.")
ETA = flags.DEFINE_float("eta", None, "Noise of ddim: 0 deterministic, 1 as DDPM.")
GRID = flags.DEFINE_string("grid", None, f"Which noise levels: {GRIDS}.")
FINAL = flags.DEFINE_string(
    "final", None, "Where the last step leads: clean, or first as in the original."
)
GUIDANCE_SCALE = flags.DEFINE_float(
    "guidance_scale", None, "Classifier-free guidance; 1 is none."
)
GUIDANCE_RESCALE = flags.DEFINE_float(
    "guidance_rescale", None, "0 to 1: keeps the contrast that guidance would raise."
)
GUIDANCE_INTERVAL = flags.DEFINE_list(
    "guidance_interval", None, "Two fractions of the noise range, such as 0.2,0.8."
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of all randomness.")
OUTDIR = flags.DEFINE_string("outdir", "samples", "Where the pictures go.")
CLASS_LABEL = flags.DEFINE_multi_string(
    "class_label", None, "Class number or name; repeat it for several."
)
PROMPT = flags.DEFINE_multi_string("prompt", None, "Text; repeat it for several.")
PROMPTS = flags.DEFINE_string("prompts", None, "File with a prompt on each line.")
NEGATIVE_PROMPT = flags.DEFINE_string(
    "negative_prompt", None, "What to guide away from."
)
INIT_IMAGE = flags.DEFINE_string("init_image", None, "Picture to vary or to fill in.")
STRENGTH = flags.DEFINE_float(
    "strength", None, "0 gives --init_image back, 1 keeps next to nothing of it.", 0, 1
)
MASK = flags.DEFINE_string(
    "mask", None, "Picture, white where --init_image is to be filled in."
)
LOW_RES = flags.DEFINE_string(
    "low_res", None, "Small picture to enlarge, by a super-resolution model."
)
SEGMENTATION = flags.DEFINE_string(
    "segmentation", None, "Picture whose values are labels (PNG), to be painted."
)
PREVIEW_STEPS = flags.DEFINE_list(
    "preview_steps", None, "Steps at which to write what the model expects, as 0,10,20."
)
HEIGHT = flags.DEFINE_integer("height", None, "Pixels; the training size if left out.")
WIDTH = flags.DEFINE_integer("width", None, "Pixels; the training size if left out.")
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Pictures at a time; at most 16 a device if left out.", 1
)
NPZ = flags.DEFINE_bool("npz", False, "Write samples.npz as well.")
NO_EMA = flags.DEFINE_bool("no_ema", False, "Raw weights instead of averaged ones.")


def main() -> None:
    # After the flags, so that --help and a mistyped flag answer at once.
    from PIL import Image

    import ldm_jax
    from ldm_jax.arrays import image_grid

    settings = _settings()
    model = ldm_jax.load(CHECKPOINT.value, step=STEP.value, ema=not NO_EMA.value)
    _check_conditioning(model)
    pictures = _pictures(model, settings)
    pixels, previews = model.sample_with_previews(**{**settings, **pictures})
    outdir = Path(OUTDIR.value)
    outdir.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pixels):
        Image.fromarray(picture).save(outdir / f"{index:05d}.png")
    grid = image_grid(pixels, columns=math.ceil(math.sqrt(len(pixels))))
    Image.fromarray(grid).save(outdir / "grid.png")
    if len(previews):
        rows = image_grid(previews.reshape(-1, *pixels.shape[1:]), columns=len(pixels))
        Image.fromarray(rows).save(outdir / "previews.png")
    if NPZ.value:
        np.savez(outdir / "samples.npz", pixels)
    record = {
        "checkpoint": CHECKPOINT.value,
        "checkpoint_step": model.step,
        "ema": not NO_EMA.value,
        "init_image": INIT_IMAGE.value,
        "mask": MASK.value,
        "low_res": LOW_RES.value,
        "segmentation": SEGMENTATION.value,
        **settings,
    }
    (outdir / "samples.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{len(pixels)} pictures in {outdir}, all of them in {outdir / 'grid.png'}")


def _settings() -> dict:
    """The flags that were given, as arguments of `Model.sample_with_previews`."""
    prompts = _prompts()
    num_samples = NUM_SAMPLES.value or (None if prompts else 16)
    options = {
        "num_samples": num_samples,
        "prompts": prompts,
        "negative_prompt": NEGATIVE_PROMPT.value,
        "class_labels": CLASS_LABEL.value,
        "sampler": SAMPLER.value,
        "steps": STEPS.value,
        "eta": ETA.value,
        "grid": GRID.value,
        "final": FINAL.value,
        "guidance_scale": GUIDANCE_SCALE.value,
        "guidance_rescale": GUIDANCE_RESCALE.value,
        "guidance_interval": _numbers(GUIDANCE_INTERVAL, float, count=2),
        "strength": STRENGTH.value,
        "height": HEIGHT.value,
        "width": WIDTH.value,
        "batch_size": BATCH_SIZE.value,
    }
    given = {name: value for name, value in options.items() if value is not None}
    steps = _numbers(PREVIEW_STEPS, int) or []
    return {"seed": SEED.value, "preview_steps": steps, **given}


def _prompts() -> list[str] | None:
    prompts = list(PROMPT.value or [])
    if PROMPTS.value is not None:
        lines = Path(PROMPTS.value).read_text().splitlines()
        prompts += [line for line in lines if line.strip()]
        if not prompts:
            raise ValueError(f"{PROMPTS.value} holds no prompt: write one on each line")
    return prompts or None


def _numbers(flag, kind: type, count: int | None = None) -> list | None:
    if flag.value is None:
        return None
    try:
        numbers = [kind(value) for value in flag.value]
    except ValueError:
        numbers = []
    if not numbers or count not in (None, len(numbers)):
        example = "0.2,0.8" if kind is float else "0,10,20"
        raise ValueError(
            f"--{flag.name}={','.join(flag.value)} is no list of numbers: write it as "
            f"{example}"
        )
    return numbers


def _pictures(model, settings: dict) -> dict:
    """Pictures given as files, as arguments of `Model.sample_with_previews`.

    --low_res and --segmentation say how large the result is.
    """
    from ldm_jax.arrays import pixels_to_image

    factor = model.ldm.autoencoder.downsampling_factor
    if LOW_RES.value is not None:
        low_res = pixels_to_image(_read_picture(LOW_RES.value))
        sides = {"height": low_res.shape[0], "width": low_res.shape[1]}
        sides = {name: side * factor for name, side in sides.items()}
        return {"conditions": {"low_res": low_res[None]}, **sides}
    if SEGMENTATION.value is not None:
        labels = _read_labels(SEGMENTATION.value)
        sides = {"height": labels.shape[0], "width": labels.shape[1]}
        return {"conditions": {"segmentation": labels[None]}, **sides}
    if INIT_IMAGE.value is None:
        if MASK.value is not None:
            raise ValueError("--mask needs the picture to fill in: give --init_image")
        return {}
    side = model.config.data.image_size
    size = settings.get("width", side), settings.get("height", side)
    pictures = {"init_image": _read_picture(INIT_IMAGE.value, size, "LANCZOS")}
    if MASK.value is not None:
        pictures["hole"] = _read_picture(MASK.value, size, "NEAREST").mean(-1) > 127
    return pictures


def _read_picture(path: str, size: tuple | None = None, resampling: str = "NEAREST"):
    """uint8 `[H, W, 3]`, of `size` (width, height) if given."""
    from PIL import Image

    from ldm_jax.data.images import decode_pixels

    picture = Image.fromarray(decode_pixels(Path(path).read_bytes()))
    resized = picture.resize(size or picture.size, Image.Resampling[resampling])
    return np.asarray(resized)


def _read_labels(path: str):
    """int32 `[H, W]`: the values of a grey picture, the indices of one with a palette."""
    from PIL import Image

    with Image.open(path) as picture:
        if picture.mode not in ("L", "P", "I", "I;16"):
            raise ValueError(
                f"{path} is a colour picture: a label map has one value a pixel, so save "
                "it as a grey or palette PNG"
            )
        return np.asarray(picture).astype(np.int32)


def _check_conditioning(model) -> None:
    """A condition that the model does not take is refused, with those it does take."""
    given = {
        "class_label": CLASS_LABEL.value,
        "prompt": PROMPT.value,
        "prompts": PROMPTS.value,
        "negative_prompt": NEGATIVE_PROMPT.value,
        "low_res": LOW_RES.value,
        "segmentation": SEGMENTATION.value,
    }
    fields = dict.fromkeys(given, "tokens")
    fields |= {n: n for n in ("class_label", "low_res", "segmentation")}
    takes_text = model.tokenizer is not None
    takes = [name for name in model.conditioning_fields if name != "tokens"]
    takes += ["tokens"] * takes_text
    for name, value in given.items():
        if value and fields[name] not in takes:
            accepted = [n for n, f in fields.items() if f in takes]
            raise ValueError(
                f"--{name} does not apply: this model takes "
                + (" or ".join(f"--{n}" for n in accepted) or "no condition")
            )


if __name__ == "__main__":
    config_lib.run_cli(main, required=("checkpoint",))
