"""Draw pictures from a trained latent diffusion model.

python sample.py --prompt="a red apple, 3d"
python sample.py --checkpoint=runs/emoji_f4 --num_samples=16 --steps=50 --outdir=samples/
   --class_label=3 | --prompt="a red apple" | --low_res=small.png | --segmentation=map.png
   | --layout=boxes.json | --query_image=a.png | --init_image=a.png [--mask=hole.png]

Writes 00000.png, 00001.png, ..., grid.png, samples.json (every setting: the same command
gives the same pixels), with --npz samples.npz (uint8 [n, h, w, 3]), with --layout
layout.png. Pictures may have any size; large ones are drawn in tiles.
"""

import json
from pathlib import Path

import numpy as np
from absl import flags

from ldm_jax import config as config_lib

CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "Workdir of the trained model, or folder of a released one; the demo model that comes "
    "along, which draws emoji from text, if left out.",
)
STEP = flags.DEFINE_integer(
    "checkpoint_step", None, "Which checkpoint; newest if left out."
)
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples",
    None,
    "How many; if left out, one for each prompt or file that is given, else 16.",
    1,
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
RESAMPLINGS = flags.DEFINE_integer(
    "resamplings",
    None,
    "With --mask, for models that were not trained to fill holes: calls of the model "
    "before each step; the hole then fits better (RePaint).",
    0,
)
LOW_RES = flags.DEFINE_string(
    "low_res", None, "Picture of any size to enlarge, by a super-resolution model."
)
SEGMENTATION = flags.DEFINE_string(
    "segmentation", None, "Picture whose values are labels (PNG), to be painted."
)
LAYOUT = flags.DEFINE_multi_string(
    "layout",
    None,
    'JSON: [{"class": NAME or NUMBER, "box": [x, y, width, height]}, ...] in shares of '
    "the picture; repeat it for several.",
)
QUERY_IMAGE = flags.DEFINE_multi_string(
    "query_image",
    None,
    "Picture whose neighbours a retrieval-augmented model reads; repeat it for several. "
    "With an index made by CLIP --prompt is a query too.",
)
NEIGHBORS = flags.DEFINE_string(
    "neighbors", None, "Folder of another index than the one of the training."
)
WITH_QUERY = flags.DEFINE_bool(
    "with_query", False, "The query's own embedding first, then one neighbour less."
)
ORIGINAL_SIZE = flags.DEFINE_list(
    "original_size",
    None,
    "Height,width of the picture to pretend to cut from, for models that are told; "
    "those drawn if left out.",
)
CROP_CORNER = flags.DEFINE_list(
    "crop_corner", None, "Top,left of that cut; 0,0 if left out."
)
PREVIEW_STEPS = flags.DEFINE_list(
    "preview_steps", None, "Steps at which to write what the model expects, as 0,10,20."
)
HEIGHT = flags.DEFINE_integer(
    "height", None, "Pixels; of the picture given, or of the training, if left out.", 1
)
WIDTH = flags.DEFINE_integer(
    "width", None, "Pixels; of the picture given, or of the training, if left out.", 1
)
TILE_SIZE = flags.DEFINE_integer(
    "tile_size",
    None,
    "Pixels of the tiles of large pictures, 0 for none; if left out, twice the training "
    "size, for pictures larger than that.",
    0,
)
TILE_OVERLAP = flags.DEFINE_integer(
    "tile_overlap", None, "Pixels; half a tile if left out.", 0
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Pictures at a time; at most 16 a device if left out.", 1
)
NPZ = flags.DEFINE_bool("npz", False, "Write samples.npz as well.")
NO_EMA = flags.DEFINE_bool("no_ema", False, "Raw weights instead of averaged ones.")


# Files that are given, whose contents samples.json identifies.
FILES = (INIT_IMAGE, MASK, LOW_RES, SEGMENTATION, LAYOUT, QUERY_IMAGE)
# What the model must take for a flag to apply (see `sampling_inputs.accepted`).
CONDITIONS = {
    "class_label": "class_label",
    "prompt": "text",
    "prompts": "text",
    "negative_prompt": "text",
    "low_res": "low_res",
    "segmentation": "segmentation",
    "layout": "layouts",
    "query_image": "neighbors",
    "neighbors": "neighbors",
    "with_query": "neighbors",
    "original_size": "geometry",
    "crop_corner": "geometry",
}


def main() -> None:
    # After the flags, so that --help and a mistyped flag answer at once.
    import ldm_jax
    from ldm_jax.features.search import cache_dir
    from ldm_jax.sample_outputs import write_layouts, write_pictures
    from ldm_jax.training import compilation

    compilation.enable_compilation_cache(cache_dir() / "compiled")
    settings = _settings()
    model = ldm_jax.load(CHECKPOINT.value, step=STEP.value, ema=not NO_EMA.value)
    _check_conditioning(model)
    pictures = _pictures(model)
    given = {**settings, **pictures, **_conditions(model, settings, pictures)}
    pixels, previews = model.sample_with_previews(**given)
    outdir = Path(OUTDIR.value)
    write_pictures(outdir, pixels, previews, npz=NPZ.value)
    if "layouts" in given:
        write_layouts(outdir, given["layouts"], model.class_names, pixels)
    (outdir / "samples.json").write_text(
        json.dumps(_record(model, settings), indent=2) + "\n"
    )
    print(f"{len(pixels)} pictures in {outdir}, all of them in {outdir / 'grid.png'}")


def _record(model, settings: dict) -> dict:
    """Every setting, and what the given files hold."""
    from ldm_jax.picture_inputs import sha256

    paths = {flag.name: flag.value for flag in (*FILES, NEIGHBORS)}
    files = [
        path
        for flag in FILES
        for path in ([flag.value] if isinstance(flag.value, str) else flag.value or [])
    ]
    return {
        "checkpoint": CHECKPOINT.value or "the demo model",
        "checkpoint_step": model.step,
        "ema": not NO_EMA.value,
        **paths,
        "with_query": WITH_QUERY.value,
        "original_size": ORIGINAL_SIZE.value,
        "crop_corner": CROP_CORNER.value,
        "sha256": {path: sha256(path) for path in files},
        **settings,
    }


def _settings() -> dict:
    """The flags that were given, as arguments of `Model.sample_with_previews`."""
    prompts = _prompts()
    has_files = any(flag.value for flag in FILES)
    num_samples = NUM_SAMPLES.value or (None if prompts or has_files else 16)
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
        "resamplings": RESAMPLINGS.value,
        "height": HEIGHT.value,
        "width": WIDTH.value,
        "tile_size": TILE_SIZE.value,
        "tile_overlap": TILE_OVERLAP.value,
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


def _pictures(model) -> dict:
    """The picture to start from, as arguments of `Model.sample_with_previews`."""
    from ldm_jax.picture_inputs import read_start

    if INIT_IMAGE.value is not None:
        side = model.config.data.image_size
        sizes = {"height": HEIGHT.value, "width": WIDTH.value}
        return read_start(INIT_IMAGE.value, MASK.value, training_size=side, **sizes)
    if MASK.value is not None:
        raise ValueError("--mask needs the picture to fill in: give --init_image")
    return {}


def _conditions(model, settings: dict, pictures: dict) -> dict:
    """Layouts and batch fields, as arguments of `Model.sample_with_previews`."""
    from ldm_jax import canvas
    from ldm_jax import picture_inputs as files
    from ldm_jax.arrays import pixels_to_image
    from ldm_jax.data.layouts import read_layout

    fields = {}
    if LOW_RES.value is not None:
        fields["low_res"] = pixels_to_image(files.read_picture(LOW_RES.value))[None]
    if SEGMENTATION.value is not None:
        fields["segmentation"] = files.read_label_map(SEGMENTATION.value)[None]
    if ORIGINAL_SIZE.value or CROP_CORNER.value:
        shown = {name: picture[None] for name, picture in pictures.items()}
        shown.pop("hole", None)  # of the same size
        size = canvas.fit(model, HEIGHT.value, WIDTH.value, shown | fields).size
        fields["geometry"] = _geometry(size)[None]
    given = {}
    if "neighbors" in model.conditioning_fields:
        fields |= _neighbors(model, settings)
        given["prompts"] = None
    if fields:
        given["conditions"] = fields
    if LAYOUT.value:
        names = model.class_names
        given["layouts"] = [read_layout(path, names) for path in LAYOUT.value]
    return given


def _geometry(size: tuple[int, int]) -> np.ndarray:
    """int32 `[6]`: the size to pretend, the corner of the cut, the size to draw."""
    from ldm_jax.conditioners.size_and_crop import default_geometry

    geometry = default_geometry(*size)
    for flag, place in ((ORIGINAL_SIZE, slice(0, 2)), (CROP_CORNER, slice(2, 4))):
        if flag.value is not None:
            geometry[place] = _numbers(flag, int, count=2)
    return geometry


def _neighbors(model, settings: dict) -> dict:
    """The batch field `neighbors` of the queries; none without one."""
    from ldm_jax import picture_inputs as files
    from ldm_jax import retrieving

    if not (QUERY_IMAGE.value or settings.get("prompts")):
        return {}
    workdir, folder = Path(CHECKPOINT.value or ""), NEIGHBORS.value or ""
    retriever = retrieving.open_retriever(model.config, workdir, folder=folder)
    how = {"with_query": WITH_QUERY.value}
    found = [
        retriever.by_image(files.read_picture(path)[None], **how)
        for path in QUERY_IMAGE.value or []
    ]
    if settings.get("prompts"):
        found.append(retriever.by_text(settings["prompts"], **how))
    return {"neighbors": np.concatenate(found)}


def _check_conditioning(model) -> None:
    """A condition that the model does not take is refused, with those it does take."""
    from ldm_jax.sampling_inputs import accepted

    takes = accepted(model)
    applies = {name: what in takes for name, what in CONDITIONS.items()}
    if "neighbors" in takes:  # a prompt may be a query
        applies |= {"prompt": True, "prompts": True}
    for name, is_taken in applies.items():
        if flags.FLAGS[name].value and not is_taken:
            usable = [f"--{n}" for n, is_taken in applies.items() if is_taken]
            usable += ["--init_image with --mask"] * ("masked_image" in takes)
            raise ValueError(
                f"--{name} does not apply: this model takes "
                + (" or ".join(usable) or "no condition")
            )


if __name__ == "__main__":
    config_lib.run_cli(main)
