"""How the Frechet distance grows with noise and blur: assets/docs/fd_noise_blur.png.

python tools/fd_curves.py --network=efficientnet_lite0

Half of emoji64 is the reference, the other half is disturbed more and more; at strength 0
the curves are the floor, real pictures against real ones.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ldm_jax.data.sources import open_source
from ldm_jax.evaluation.curves import draw_panel
from ldm_jax.evaluation.extraction import Accumulator, Extract, Features, extract_fn
from ldm_jax.evaluation.frechet import frechet_distance
from ldm_jax.features.networks import find_network

ROOT = Path(__file__).resolve().parents[1]
BATCH_SIZE = 64
NOISE = (0.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # deviation, in grey levels
BLUR = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # deviation, in pixels

Disturb = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="efficientnet_lite0")
    parser.add_argument("--num_pictures", type=int, default=3200, help="both halves")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "assets/docs/fd_noise_blur.png"
    )
    args = parser.parse_args()
    extract = extract_fn(find_network(args.network), BATCH_SIZE)
    real, other = halves(args.num_pictures)
    reference = features(extract, real)
    lines = {}
    for name, disturb, strengths in (("noise", noisy, NOISE), ("blur", blurred, BLUR)):
        values = []
        for strength in strengths:
            disturbed = apart(other, disturb, strength)
            moments = features(extract, disturbed).moments["pool"]
            values.append(frechet_distance(reference.moments["pool"], moments))
            print(f"{name} {strength:g}: {values[-1]:.2f}", flush=True)
        lines[name] = np.array(list(zip(strengths, values, strict=True)))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(lines, args.network)).save(args.output)
    print(f"written to {args.output}")


def halves(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint random sets of emoji, uint8 `[count / 2, 64, 64, 3]` each."""
    source = open_source("emoji64:all")
    order = np.random.default_rng(0).permutation(len(source))[:count]
    pixels = np.stack([source[int(i)]["image"] for i in order])
    return pixels[: count // 2], pixels[count // 2 :]


def apart(
    pixels: np.ndarray, disturb: Disturb, strength: float
) -> Iterator[np.ndarray]:
    """Batches of disturbed pictures."""
    generator = np.random.default_rng(1)
    return (disturb(batch, strength, generator) for batch in batches(pixels))


def batches(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """`pixels` in pieces."""
    for start in range(0, len(pixels), BATCH_SIZE):
        yield pixels[start : start + BATCH_SIZE]


def noisy(
    pixels: np.ndarray, strength: float, generator: np.random.Generator
) -> np.ndarray:
    """White noise of that deviation in grey levels."""
    noise = generator.normal(0, strength, pixels.shape) if strength else 0
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def blurred(
    pixels: np.ndarray, strength: float, generator: np.random.Generator
) -> np.ndarray:
    """A Gaussian blur of that deviation in pixels."""
    del generator
    blur = ImageFilter.GaussianBlur(strength)
    return np.stack([np.asarray(Image.fromarray(p).filter(blur)) for p in pixels])


def features(extract: Extract, pixels: np.ndarray | Iterator[np.ndarray]) -> Features:
    """Statistics of a set."""
    accumulator = Accumulator()
    parts = batches(pixels) if isinstance(pixels, np.ndarray) else pixels
    for batch in parts:
        accumulator.add(extract(batch))
    return accumulator.result()


def picture(lines: dict[str, np.ndarray], network: str) -> np.ndarray:
    """Two panels side by side."""
    size = 460, 300
    image = Image.new("RGB", (2 * size[0], size[1]), "white")
    draw = ImageDraw.Draw(image)
    units = {"noise": "grey levels", "blur": "pixels"}
    for index, (name, line) in enumerate(lines.items()):
        title = f"FD-{network} over the deviation of the {name} in {units[name]}"
        draw_panel(draw, (index * size[0], 0), size, title, {name: line})
    return np.asarray(image)


if __name__ == "__main__":
    main()
