"""One picture for each task: labelled rows of conditions, samples and real pictures."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from ldm_jax.condition_pictures import condition_pictures
from ldm_jax.data.sources import open_source
from ldm_jax.retrieving import open_retriever
from tools.tasks.held_out import HeldOut, Pixels

MARGIN = 96  # for the rows' labels
GAP = 3


def condition_rows(config: ConfigDict, pictures: HeldOut) -> dict[str, Pixels]:
    """What is asked for, as rows of pictures."""
    fields, side = pictures.fields, pictures.pixels.shape[1]
    names = pictures.class_names
    if "class_label" in fields:
        return {"class": words([names[label] for label in pictures.labels], side)}
    if "neighbors" in fields:
        return {"query": pictures.pixels, **_neighbours(config, pictures)}
    if "tokens" in fields and config.tokenizer.name != "layout":
        return {"prompt": words([x["caption"] for x in pictures.examples], side)}
    batch = {"image": pictures.pixels, **fields}
    seen = condition_pictures(config, batch, [str(i) for i in range(len(names))])
    labels = {"tokens": "boxes", "segmentation": "label map", "low_res": "16x16"}
    given = next((label for name, label in labels.items() if name in fields), "hole")
    return {} if seen is None else {given: seen}


def grid(rows: dict[str, Pixels], columns: int) -> UInt8[np.ndarray, "h w 3"]:
    """The first pictures of each row, the row's label at the left."""
    side = next(iter(rows.values())).shape[1] + GAP
    canvas = Image.new("RGB", (MARGIN + columns * side, len(rows) * side), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for row, (label, pixels) in enumerate(rows.items()):
        text = "\n".join(textwrap.wrap(label, 15))
        pen.text((4, row * side + side // 3), text, fill="black", font=font)
        for column, picture in enumerate(pixels[:columns]):
            corner = (MARGIN + column * side, row * side)
            canvas.paste(Image.fromarray(np.asarray(picture)), corner)
    return np.asarray(canvas)


def words(texts: Sequence[str], side: int) -> Pixels:
    """Texts as pictures."""
    font, pictures = ImageFont.load_default(9), []
    for text in texts:
        picture = Image.new("RGB", (side, side), "#f2f2f2")
        wrapped = "\n".join(textwrap.wrap(text, side // 5))
        ImageDraw.Draw(picture).text(
            (3, 3), wrapped, fill="black", font=font, spacing=1
        )
        pictures.append(np.asarray(picture))
    return np.stack(pictures)


def _neighbours(config: ConfigDict, pictures: HeldOut) -> dict[str, Pixels]:
    """The two nearest of the neighbours that each picture's model is given."""
    retriever = open_retriever(config)
    meta = retriever.index.meta
    source = open_source(meta.source, split=meta.split)
    position = {source.annotation(i)["name"]: i for i in range(len(source))}
    found = retriever.found(pictures.fields["neighbors"][:, :2])
    nearest = [[source[position[name]]["image"] for name in row] for row in found]
    return {f"neighbour {k + 1}": np.stack([row[k] for row in nearest]) for k in (0, 1)}
