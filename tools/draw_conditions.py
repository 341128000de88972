"""The pictures of docs/conditions.md: degraded pictures and holes of every kind.

python tools/draw_conditions.py [--image=PHOTO] --outdir=assets/docs

Needs the extra `sr`, and scikit-image for its photograph when no image is given.
"""

from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image, ImageDraw

from ldm_jax import config as config_lib

IMAGE = flags.DEFINE_string("image", None, "A photograph; default: an astronaut's.")
OUTDIR = flags.DEFINE_string("outdir", "assets/docs", "Where the pictures go.")
PHOTO_SIZE, FACTOR, ZOOM, DRAWS = 192, 4, 2, 6
NEAREST = Image.Resampling.NEAREST
LABEL_HEIGHT = 14


def main() -> None:
    from ldm_jax.data.degradations import DEGRADATIONS
    from ldm_jax.data.holes import HOLES

    outdir = Path(OUTDIR.value)
    outdir.mkdir(parents=True, exist_ok=True)
    photo = read_photo(PHOTO_SIZE)
    size = PHOTO_SIZE // FACTOR * ZOOM
    cells = {"image": resize(photo, size, Image.Resampling.LANCZOS)}
    for name, degrade in DEGRADATIONS.items():
        if name != "pil_bicubic":  # it is `bicubic`
            small = degrade(photo, FACTOR, np.random.default_rng(3))
            cells[name] = resize(small, size)
    save([label(cell, name) for name, cell in cells.items()], 7, "degradations")

    for name in ("bsrgan_light", "bsrgan"):
        generator = np.random.default_rng(0)
        draws = [DEGRADATIONS[name](photo, FACTOR, generator) for _ in range(DRAWS**2)]
        save([resize(small, size) for small in draws], DRAWS, f"degradations_{name}")

    photo = resize(photo, size, Image.Resampling.LANCZOS)
    rows = []
    for seed, (name, draw) in enumerate(HOLES.items()):
        generator = np.random.default_rng(seed)
        for _ in range(1 if name in ("center", "border") else DRAWS):
            hole = draw(size, size, generator)[..., None]
            rows.append(label(np.where(hole, np.uint8(255), photo), name))
    save(rows[: DRAWS * 7], DRAWS, "holes")  # of `half`, what fills the row


def read_photo(size: int) -> np.ndarray:
    """uint8 `[size, size, 3]`: the middle of the given picture, or a face."""
    if IMAGE.value:
        image = Image.open(IMAGE.value).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
    else:
        from skimage import data

        image, box = Image.fromarray(data.astronaut()), (120, 0, 344, 224)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box))


def resize(
    pixels: np.ndarray, size: int, resample: Image.Resampling = NEAREST
) -> np.ndarray:
    """To `[size, size, 3]`; by default every pixel becomes a square."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), resample))


def label(pixels: np.ndarray, text: str) -> np.ndarray:
    """The text in a white strip above."""
    strip = Image.new("RGB", (pixels.shape[1], LABEL_HEIGHT), "white")
    ImageDraw.Draw(strip).text((2, 1), text, fill="black")
    return np.concatenate([np.asarray(strip), pixels])


def save(cells: list[np.ndarray], columns: int, name: str) -> None:
    """One PNG of all cells."""
    from ldm_jax.arrays import image_grid

    path = Path(OUTDIR.value) / f"{name}.png"
    Image.fromarray(image_grid(np.stack(cells), columns)).save(path, optimize=True)
    print(path, flush=True)


if __name__ == "__main__":
    config_lib.run_cli(main)
