"""An index of pictures for retrieval-augmented models (docs/retrieval.md).

python tools/build_retrieval_index.py --source=folder:/path --network=clip:/path/to/clip \
    --output=indices/pictures --preview=neighbours.png

The network is any that gives a picture a vector: clip:FOLDER (of transformers or
OpenCLIP, as published), efficientnet_lite0 from pip, inception. --published=a.npz,b.npz
takes the embeddings of a database that came with the original instead.
"""

from pathlib import Path

import numpy as np
from absl import flags

from ldm_jax import config as config_lib

SOURCE = flags.DEFINE_string("source", "", "Pictures, as config.data.source.")
PUBLISHED = flags.DEFINE_list("published", [], "Or .npz files of embeddings.")
NETWORK = flags.DEFINE_string("network", None, "Such as clip:FOLDER.")
OUTPUT = flags.DEFINE_string("output", None, "A new folder.")
SPLIT = flags.DEFINE_string("split", "train", "Of the source: train, val or all.")
IMAGE_SIZE = flags.DEFINE_integer("image_size", 256, "Of the squares embedded.", 1)
RESIZE = flags.DEFINE_string("resize", "smallest_antialias", "See config.data.resize.")
PATCHES = flags.DEFINE_integer("patches", 1, "Random squares of each picture.", 1)
PREVIEW = flags.DEFINE_string("preview", "", "A picture of queries and neighbours.")


def main() -> None:
    if bool(SOURCE.value) == bool(PUBLISHED.value):
        raise ValueError("give either --source or --published")
    if PREVIEW.value and not SOURCE.value:
        raise ValueError("--preview shows pictures, which --published has none of")
    from ldm_jax import retrieving

    network, output = str(NETWORK.value), str(OUTPUT.value)
    squares = {"image_size": IMAGE_SIZE.value, "resize": RESIZE.value}
    if PUBLISHED.value:
        index = retrieving.import_published(PUBLISHED.value, network, output, **squares)
    else:
        index = retrieving.build_index(
            SOURCE.value,
            network,
            output,
            split=SPLIT.value,
            num_patches=PATCHES.value,
            **squares,
        )
    meta = index.meta
    print(f"{meta.count} rows of {meta.embed_dim} numbers in {output}")
    if PREVIEW.value:
        _preview(index, Path(PREVIEW.value))


def _preview(index, path: Path, *, num_queries: int = 12, k: int = 8) -> None:
    """Random pictures at the left, their neighbours beside them; the share of classes."""
    from PIL import Image

    from ldm_jax.arrays import image_grid
    from ldm_jax.data.sources import open_source
    from ldm_jax.data.transforms import SquareImage

    source = open_source(index.meta.source, split=index.meta.split)
    position = {source.annotation(i)["name"]: i for i in range(len(source))}
    pictures = np.array([position[name] for name in index.names])
    chosen = np.random.default_rng(0).permutation(len(pictures))
    rows = np.sort(chosen[:1000])
    names = [index.names[row] for row in rows]
    found = index.search(index.vectors(rows), k, names=names)
    if source.class_names:
        labels = [source.annotation(i)["class_label"] for i in range(len(source))]
        of_row = np.array(labels)[pictures]
        same = np.mean(of_row[found.rows] == of_row[rows][:, None])
        chance = np.mean(of_row[chosen[: len(rows)]][:, None] == of_row)
        print(f"neighbours of the same class: {same:.1%}, by chance {chance:.1%}")
    square = SquareImage(min(index.meta.image_size, 96), "smallest_antialias")
    grid = []
    for query, row in enumerate(
        rows[:: max(1, len(rows) // num_queries)][:num_queries]
    ):
        query = int(np.searchsorted(rows, row))
        for picture in pictures[[row, *found.rows[query]]]:
            image = square(source[int(picture)], np.random.default_rng(0))["image"]
            grid.append(np.rint((image + 1) * 127.5).astype(np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image_grid(np.stack(grid), columns=k + 1)).save(path)
    print(f"queries at the left of {path}, their neighbours beside them")


if __name__ == "__main__":
    config_lib.run_cli(main, required=("network", "output"))
