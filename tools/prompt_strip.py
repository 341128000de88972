"""The pictures of some prompts side by side with the words below: README's strip.

python tools/prompt_strip.py --prompts=assets/emoji_text/prompts.txt \
    --output=assets/emoji_text/strip.png
"""

# Flags that are required are strings.
# pyright: reportArgumentType=false

from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFont

from ldm_jax import config as config_lib

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Workdir or released folder; the demo model if left out."
)
PROMPTS = flags.DEFINE_string("prompts", None, "File with a prompt on each line.")
OUTPUT = flags.DEFINE_string("output", None, "PNG to write.")
ROWS = flags.DEFINE_integer("rows", 2, "Pictures of each prompt.", 1)
STEPS = flags.DEFINE_integer("steps", 30, "Sampling steps (dpmpp_2m).", 1)
GUIDANCE_SCALE = flags.DEFINE_float("guidance_scale", None, "The config's if left out.")
SEED = flags.DEFINE_integer("seed", 0, "Of the noise.")
SIDE = 112  # pixels of a picture
WORDS = 44  # pixels below the last row


def main() -> None:
    import ldm_jax

    model = ldm_jax.load(CHECKPOINT.value)
    lines = Path(PROMPTS.value).read_text(encoding="utf-8").splitlines()
    prompts = [line for line in lines if line.strip()]
    pixels = model.sample(
        prompts=prompts * ROWS.value,
        steps=STEPS.value,
        sampler="dpmpp_2m",
        guidance_scale=GUIDANCE_SCALE.value,
        seed=SEED.value,
    )
    Image.fromarray(strip(pixels, prompts)).save(OUTPUT.value)


def strip(pixels: np.ndarray, prompts: list[str]) -> np.ndarray:
    """uint8 `[n h w 3]`, row after row of one picture a prompt, to one picture."""
    columns, rows = len(prompts), len(pixels) // len(prompts)
    sheet = Image.new("RGB", (columns * SIDE, rows * SIDE + WORDS), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for index, picture in enumerate(pixels):
        large = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        sheet.paste(large, (index % columns * SIDE, index // columns * SIDE))
    for column, prompt in enumerate(prompts):
        middle = (column * SIDE + SIDE // 2, rows * SIDE + WORDS // 2)
        words = wrapped(prompt, font, SIDE - 8)
        draw.text(middle, words, "#333", font, anchor="mm", align="center")
    return np.asarray(sheet)


def wrapped(
    text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int
) -> str:
    """The text in lines that are no wider than `width` pixels, unless a word is."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


if __name__ == "__main__":
    config_lib.run_cli(main, required=("prompts", "output"))
