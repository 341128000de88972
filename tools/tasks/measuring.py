"""What a trained task model draws: one picture, its statistics, one call of sample.py."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

import ldm_jax
from ldm_jax.data.sources import open_source
from tools.tasks import drawing, statistics
from tools.tasks.held_out import BATCH_SIZE, HeldOut, Pixels, draw, held_out
from tools.tasks.statistics import Categories, difference
from tools.tasks.table import Task
from tools.tasks.trainings import script

GUIDANCE = (1.0, 3.0)
NUM_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Settings:
    """How many pictures are drawn and measured, in how many steps."""

    num_pictures: int
    steps: int


def measure(
    task: Task,
    workdir: Path,
    ablation: Path,
    categories: Categories,
    picture: Path,
    settings: Settings,
) -> tuple[dict[str, dict[str, float]], float]:
    """Draw held-out conditions, write `picture`, and compute the task's statistics.

    Returns:
      By statistic its value of the ablation's samples ("without"), of those of each
      guidance scale ("scale 1", ...), of the baseline by its name, and of the held-out
      pictures as the first stage gives them back ("first stage"); and by how many grey
      levels samples from the same noise differ under another picture's condition (inside
      the hole, if there is one).
    """
    model = ldm_jax.load(workdir)
    pictures = held_out(model, workdir, settings.num_pictures)
    scales = GUIDANCE if task.is_guided else GUIDANCE[:1]
    rows = {"without": _unconditional(ablation, pictures, settings)}
    for scale in scales:
        drawn = draw(model, pictures, steps=settings.steps, guidance_scale=scale)
        rows[f"scale {scale:g}"] = drawn
    # Neighbours in the list are often alike.
    shift = max(1, len(pictures) // 4)
    other = draw(model, pictures, steps=settings.steps, guidance_scale=1.0, shift=shift)
    if task.baseline:
        name, make = task.baseline
        rows[name] = make(pictures)
    rows["first stage"] = model.decode(model.encode(pictures.pixels))
    measured = {}
    for name, of_categories in task.statistics.items():
        statistic = of_categories(categories)
        measured[name] = {row: statistic(x, pictures) for row, x in rows.items()}
    hole = pictures.fields.get("hole")
    where = None if hole is None else hole[..., 0] > 0
    _show(model.config, pictures, rows, picture)
    return measured, difference(rows["scale 1"], other, where)


def sample_command(task: Task, workdir: Path, outdir: Path, settings: Settings) -> None:
    """Sixteen samples of sample.py under one held-out condition, in files in `outdir`."""
    outdir.mkdir(parents=True, exist_ok=True)
    pictures = held_out(ldm_jax.load(workdir), workdir, 1)
    script(
        "sample.py",
        f"--checkpoint={workdir}",
        *task.flags(pictures, outdir),
        f"--num_samples={BATCH_SIZE}",
        f"--batch_size={BATCH_SIZE}",
        f"--steps={settings.steps}",
        f"--outdir={outdir}",
    )


def colours(workdir: Path, settings: Settings) -> dict[str, float]:
    """How often drawings of a text model have the colour of their prompt, by the scale.

    "large COLOUR circle" in six colours and both styles, which are all in the training; a
    drawing's colour is that of the six training drawings whose mean is the nearest.
    """
    model, source = ldm_jax.load(workdir), open_source("emoji64")
    by_caption = {source.annotation(i)["caption"]: i for i in range(len(source))}
    names = ("red", "orange", "yellow", "green", "blue", "purple")
    prompts = [f"large {c} circle, {s}" for s in ("flat", "3d") for c in names]
    prompts = [prompt for prompt in prompts if prompt in by_caption]
    real = np.stack([source[by_caption[prompt]]["image"] for prompt in prompts])
    known = statistics.ink_colour(real)
    asked = np.array([names.index(prompt.split()[1]) for prompt in prompts])
    means = np.stack(
        [known[asked == label].mean(axis=0) for label in range(len(names))]
    )
    found = {"chance": 1 / len(names)}
    for scale in GUIDANCE:
        pixels = model.sample(
            4 * len(prompts),
            prompts=prompts,
            guidance_scale=scale,
            steps=settings.steps,
            batch_size=BATCH_SIZE,
        )
        x = statistics.ink_colour(pixels)
        nearest = ((x[:, None] - means) ** 2).sum(-1).argmin(-1)
        found[f"scale {scale:g}"] = float(np.mean(nearest == np.resize(asked, len(x))))
    return found


def _unconditional(ablation: Path, pictures: HeldOut, settings: Settings) -> Pixels:
    """The ablation's samples from the same noise, pasted into the holes if there are any."""
    bare = dataclasses.replace(pictures, fields={})
    drawn = draw(ldm_jax.load(ablation), bare, steps=settings.steps)
    if "hole" not in pictures.fields:
        return drawn
    return np.where(pictures.fields["hole"] > 0, drawn, pictures.pixels)


def _show(config, pictures: HeldOut, rows: dict[str, Pixels], path: Path) -> None:
    """Conditions, samples and held-out pictures, evenly spaced among them all."""
    labels = {"without": "unconditional", "scale 1": "sample", "scale 3": "guidance 3"}
    shown = drawing.condition_rows(config, pictures)
    for name, pixels in rows.items():
        if name != "first stage":
            shown[labels.get(name, name)] = pixels
    if "query" not in shown:
        shown["held-out picture"] = pictures.pixels
    chosen = np.linspace(0, len(pictures) - 1, NUM_SHOWN).round().astype(int)
    spread = {label: pixels[chosen] for label, pixels in shown.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = Image.fromarray(drawing.grid(spread, NUM_SHOWN))
    grid.quantize(256).save(path, optimize=True)
