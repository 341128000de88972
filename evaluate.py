"""Measure samples, a latent diffusion model or a first stage against real pictures.

python evaluate.py --checkpoint=runs/emoji_f4 --reference=stats.npz --num_samples=50000 \
    --metrics=fid,kid,is,prec_recall
python evaluate.py --samples=DIR_or_npz --reference=stats.npz_or_DIR_or_source
python evaluate.py --autoencoder=runs/kl_f8 --source=folder:/path \
    --metrics=rfid,psnr,ssim,lpips
python evaluate.py --make_reference=stats.npz --source=folder:/path --image_size=256

Prints a table and whether it may be compared with the paper's, and writes metrics.json
with the whole protocol. docs/evaluation.md explains both.
"""

from pathlib import Path
from typing import Any

from absl import flags

from ldm_jax import config as config_lib

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Workdir of a model to draw from.")
SAMPLES = flags.DEFINE_string(
    "samples", None, "Pictures drawn before: a folder, an .npz, or a source."
)
AUTOENCODER = flags.DEFINE_string("autoencoder", None, "Workdir of a first stage.")
MAKE_REFERENCE = flags.DEFINE_string(
    "make_reference", None, "Write the statistics of --source to this .npz."
)
REFERENCE = flags.DEFINE_string(
    "reference", None, "Real pictures: an .npz of statistics or pictures, or a source."
)
SOURCE = flags.DEFINE_string("source", None, "Pictures, written as config.data.source.")
METRICS = flags.DEFINE_list(
    "metrics",
    None,
    "Of samples: fid, sfid, kid, is, prec_recall, density_coverage. Of a first stage: "
    "rfid, ris, psnr, ssim, lpips, codebook.",
)
NETWORK = flags.DEFINE_enum(
    "network",
    None,
    ["inception", "efficientnet_lite0", "clip"],
    "Whose features; those of the reference if left out, else inception.",
)
NETWORK_PATH = flags.DEFINE_string(
    "network_path", None, "File with its weights; searched for if left out."
)
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "How many; 50000 from a checkpoint, else all there are.", 1
)
NUM_REFERENCE = flags.DEFINE_integer(
    "num_reference", None, "Take that many pictures of the source, at random.", 1
)
SPLIT = flags.DEFINE_enum(
    "split", None, ["train", "val", "all"], "Of the source; val for a first stage."
)
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Of the source's pictures; as trained or drawn if left out.", 1
)
RESIZE = flags.DEFINE_string(
    "resize", None, "smallest, smallest_N, smallest_antialias or square_bicubic."
)
KEEP_FEATURES = flags.DEFINE_bool(
    "keep_features", False, "Put features into the reference: for kid and prec_recall."
)
OUTPUT = flags.DEFINE_string("output", "metrics.json", "Where the report goes.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Pictures at a time.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Of drawing, and of choosing pictures.")
STEP = flags.DEFINE_integer(
    "checkpoint_step", None, "Which checkpoint; newest if left out."
)
NO_EMA = flags.DEFINE_bool("no_ema", False, "Raw weights instead of averaged ones.")
NUMBER_FORMAT = flags.DEFINE_enum(
    "number_format",
    "round",
    ["round", "truncate"],
    "Drawn floats to 8 bits; the paper's scripts truncate.",
)
PROMPTS = flags.DEFINE_string("prompts", None, "File with a prompt on each line.")
CLIP = flags.DEFINE_string(
    "clip",
    None,
    "Folder of transformers' CLIPModel: adds the CLIP score with --prompts.",
)
SAMPLER = flags.DEFINE_string("sampler", None, "As for sample.py; the config's.")
STEPS = flags.DEFINE_integer("steps", None, "Sampling steps; the config's if left out.")
ETA = flags.DEFINE_float("eta", None, "Noise of ddim: 0 deterministic, 1 as DDPM.")
GRID = flags.DEFINE_string("grid", None, "Which noise levels; see sample.py.")
FINAL = flags.DEFINE_string("final", None, "Where the last step leads; see sample.py.")
GUIDANCE_SCALE = flags.DEFINE_float(
    "guidance_scale", None, "Classifier-free guidance; 1 is none."
)

FORMS = ("checkpoint", "samples", "autoencoder", "make_reference")
SAMPLING = (SAMPLER, STEPS, ETA, GRID, FINAL, GUIDANCE_SCALE)


def main() -> None:
    given = [name for name in FORMS if flags.FLAGS[name].value is not None]
    if len(given) != 1:
        have = " and ".join(f"--{name}" for name in given) or "none"
        raise ValueError(
            "give one of "
            + ", ".join(f"--{name}" for name in FORMS)
            + f": there is {have}"
        )
    options = settings(given[0])
    # After the flags, so that --help and a mistyped flag answer at once.
    from ldm_jax.evaluating import command
    from ldm_jax.features.search import cache_dir
    from ldm_jax.training import compilation

    compilation.enable_compilation_cache(cache_dir() / "compiled")
    print(command.COMMANDS[given[0]](options))


def settings(form: str) -> dict[str, Any]:
    """The flags by name; sampling flags, of those given, together as `sampling`."""
    names = [
        *FORMS, "reference", "source", "network", "network_path", "num_samples",
        "num_reference", "split", "image_size", "resize", "keep_features", "batch_size",
        "seed", "checkpoint_step", "no_ema", "number_format", "metrics", "clip",
    ]  # fmt: skip
    options = {name: flags.FLAGS[name].value for name in names}
    options["output"] = Path(OUTPUT.value)
    drawing = {f.name: f.value for f in SAMPLING if f.value is not None}
    if form != "checkpoint" and drawing:
        name = next(iter(drawing))
        raise ValueError(f"--{name} is for drawing: it goes with --checkpoint alone")
    options |= {"sampling": drawing, "prompts": None}
    if PROMPTS.value is not None:
        lines = Path(PROMPTS.value).read_text().splitlines()
        options["prompts"] = [line for line in lines if line.strip()]
        if not options["prompts"]:
            raise ValueError(f"{PROMPTS.value} holds no prompt: write one on each line")
    return options


if __name__ == "__main__":
    config_lib.run_cli(main)
