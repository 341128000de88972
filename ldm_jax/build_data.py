"""The section `data` to a source and to what is made of its pictures.

Which transforms run follows from the batch fields that the conditioner reads: `low_res`
asks for a degradation, `hole` for holes, `tokens` for a tokenizer, and so on.
"""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ldm_jax import build_conditioner
from ldm_jax import config as config_lib
from ldm_jax.data.coco import WithBoxes
from ldm_jax.data.degradations.low_res import LowRes
from ldm_jax.data.holes import CutHole
from ldm_jax.data.segmentation_maps import WithSegmentation
from ldm_jax.data.sources import open_source
from ldm_jax.data.transforms import (
    AddGeometry,
    PreparePicture,
    SquareImage,
    Tokenize,
)
from ldm_jax.retrieving import look_up_neighbors

DEFAULT_DEGRADATION = "bicubic"
DEFAULT_HOLES = "lama"


def data(
    config: ConfigDict,
    conditioner: Any = None,
    workdir: Path | None = None,
    split: str = "train",
) -> tuple[Any, PreparePicture]:
    """The source of one split and its transform, checked against the conditioner.

    Raises:
      ValueError, FileNotFoundError: one sentence for whatever is missing.
    """
    opened = source(config, workdir, split)
    build_conditioner.check_source(config, conditioner, opened)
    return opened, transform(config, conditioner, opened, workdir)


def source(
    config: ConfigDict, workdir: Path | None = None, split: str = "train"
) -> Any:
    """The pictures of one split, with the label maps or layouts that the config names.

    `config.data.layout` is a file for all splits, or a folder of train.json and val.json.

    Raises:
      ValueError, FileNotFoundError: one sentence for whatever is missing.
    """
    section = config.data
    if not section.source:
        raise ValueError(
            "config.data.source is empty: give --config.data.source=folder:PATH "
            "(or tfds:NAME, array_record:GLOB, emoji64)"
        )
    opened = open_source(section.source, split=split)
    if section.get("segmentation"):
        folder = config_lib.resolve(section.segmentation, workdir)
        opened = WithSegmentation(opened, folder)
    if section.get("layout"):
        path = config_lib.resolve(section.layout, workdir)
        opened = _with_boxes(config, opened, path, split)
    return opened


def transform(
    config: ConfigDict,
    conditioner: Any,
    source: Any,
    workdir: Path | None = None,
) -> PreparePicture:
    """Examples of `source` to what the model reads, with a random crop and flip."""
    section = config.data
    square = SquareImage(
        image_size=section.image_size,
        resize=section.resize,
        crop=section.crop,
        flip_rate=section.flip_rate,
        crop_scale=tuple(section.get("crop_scale") or (1.0, 1.0)),
    )
    conditions: dict[str, Callable] = {}
    for field in getattr(conditioner, "fields", ()):
        made = _condition(field, config, conditioner, source, workdir)
        conditions |= {field: made} if made else {}
    return PreparePicture(square, tuple(conditions.values()))


def _condition(
    field: str, config: ConfigDict, conditioner: Any, source: Any, workdir: Path | None
) -> Callable | None:
    """What adds a batch field; None if the source brings it along."""
    match field:
        case "low_res":
            factor = 2 ** (len(config.autoencoder.ch_mult) - 1)
            return LowRes(config.data.get("degradation", DEFAULT_DEGRADATION), factor)
        case "masked_image":  # the hole comes with it
            value = build_conditioner.hole_value(conditioner)
            return CutHole(config.data.get("holes", DEFAULT_HOLES), value)
        case "tokens" if build_conditioner.reads_layouts(config):
            return build_conditioner.layout_tokenizer(config, len(source.class_names))
        case "tokens":
            return Tokenize(build_conditioner.tokenizer(config, workdir))
        case "neighbors":
            return look_up_neighbors(config, conditioner, source, workdir)
        case "geometry":
            return AddGeometry()
    return None


def _with_boxes(config: ConfigDict, source: Any, path: Path, split: str) -> WithBoxes:
    if path.is_dir():
        path = path / f"{split}.json"
    section, choices = config.data, {}
    if section.get("num_objects"):
        choices["num_objects"] = tuple(section.num_objects)
    return WithBoxes(source, path, **choices)
