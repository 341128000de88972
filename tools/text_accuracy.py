"""How well a text model of emoji64 follows captions that it was not trained on.

    python tools/text_accuracy.py --checkpoint=runs/emoji_text --guidance_scale=3

draws one picture for each of the 170 held-out captions and compares ImageNet features
(EfficientNet-lite0, cosine) with real pictures:

- caption: of all held-out pictures, the one of the caption is the nearest, or among the five
  nearest; by chance 1 or 5 in 170. The captions' emoji are in no training picture.
- category: the nearest training picture is of the caption's category.
- style: the nearest training picture is of the caption's style, 3d or flat.

The same is said of the model's pictures given one another's captions, which is what a model
that does not read would score, and of the held-out pictures themselves (category, style).
"""

import json
from pathlib import Path

import numpy as np
from absl import flags

from ldm_jax import config as config_lib

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Workdir or released folder; the demo model if left out."
)
GUIDANCE_SCALE = flags.DEFINE_float("guidance_scale", None, "The config's if left out.")
STEPS = flags.DEFINE_integer("steps", 30, "Sampling steps (dpmpp_2m).", 1)
SEED = flags.DEFINE_integer("seed", 0, "Of the noise.")
OUTPUT = flags.DEFINE_string("output", None, "Folder for accuracy.json and the grid.")


def main() -> None:
    import ldm_jax
    from ldm_jax.data.sources import open_source

    held_out = open_source("emoji64", split="val")
    rows = [held_out.annotation(i) for i in range(len(held_out))]
    captions = [row["caption"] for row in rows]
    model = ldm_jax.load(CHECKPOINT.value)
    drawn = model.sample(
        prompts=captions,
        guidance_scale=GUIDANCE_SCALE.value,
        steps=STEPS.value,
        sampler="dpmpp_2m",
        seed=SEED.value,
    )
    result = measure(drawn, rows, held_out)
    print(json.dumps(result, indent=2))
    if OUTPUT.value:
        _write(Path(OUTPUT.value), drawn, result)


def measure(drawn: np.ndarray, rows: list, held_out) -> dict[str, dict[str, float]]:
    """The table: `{whose pictures: {measure: share}}`.

    Args:
      drawn: uint8 `[n h w 3]`, one for each of `rows`, annotations of `held_out`.
    """
    from ldm_jax.data.sources import open_source
    from ldm_jax.features.networks import find_network
    from ldm_jax.retrieving.embedding import Embedder

    network = find_network("efficientnet_lite0")
    embedder = Embedder(network, drawn.shape[1], "smallest")
    training = open_source("emoji64", split="train")
    x_training = np.concatenate([part[0] for part in embedder.source(training)])
    labels = [_what(training.annotation(i)) for i in range(len(training))]
    x_real = np.concatenate([part[0] for part in embedder.source(held_out)])
    x_drawn = embedder.pixels(drawn)
    asked = [_what(row) for row in rows]
    exchanged = np.random.default_rng(0).permutation(len(rows))
    return {
        "drawn": {
            **_found(x_drawn, x_real),
            **_agreeing(x_drawn, x_training, asked, labels),
        },
        "drawn for another caption": {
            **_found(x_drawn[exchanged], x_real),
            **_agreeing(x_drawn[exchanged], x_training, asked, labels),
        },
        "held-out pictures": _agreeing(x_real, x_training, asked, labels),
    }


def _what(row) -> dict[str, str]:
    style = row["caption"].rsplit(", ", 1)[1]
    return {"category": str(row["class_label"]), "style": style}


def _found(x: np.ndarray, x_real: np.ndarray) -> dict[str, float]:
    """Shares of rows whose own real picture is the nearest, or one of the five."""
    scores = x @ x_real.T
    rank = (scores > np.diag(scores)[:, None]).sum(axis=1)
    return {
        "caption, nearest": float(np.mean(rank < 1)),
        "caption, of five": float(np.mean(rank < 5)),
    }


def _agreeing(
    x: np.ndarray, x_training: np.ndarray, asked: list, labels: list
) -> dict[str, float]:
    """Shares of rows whose nearest training picture is of the category, the style."""
    nearest = (x @ x_training.T).argmax(axis=1)
    return {
        name: float(
            np.mean(
                [
                    labels[j][name] == a[name]
                    for j, a in zip(nearest, asked, strict=True)
                ]
            )
        )
        for name in ("category", "style")
    }


def _write(folder: Path, drawn: np.ndarray, result: dict) -> None:
    from PIL import Image

    from ldm_jax.arrays import image_grid

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "accuracy.json").write_text(json.dumps(result, indent=2) + "\n")
    Image.fromarray(image_grid(drawn, columns=17)).save(folder / "held_out.png")


if __name__ == "__main__":
    config_lib.run_cli(main)
