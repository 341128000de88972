"""`tfds:NAME[:split]`: data sets that TFDS has prepared as array_record, without TF."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_jax.data.images import CorruptImage
from ldm_jax.data.records import Record, fingerprint_files

SPLITS = {"train": ("train",), "val": ("validation", "val", "test"), "all": ("all",)}


@dataclass
class TfdsReader:
    """Random access to one split.

    Attributes:
      split: TFDS's name of it, which may have a slice.
      data_path: where the prepared files are.
      examples: TFDS's data source, with images left encoded.
      image_key, label_key, caption_key: features; the last two may be None.
    """

    spec: str
    split: str
    data_path: Path
    examples: Any
    image_key: str
    label_key: str | None
    caption_key: str | None
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def record(self, index: int) -> Record:
        """Annotation keys: name; class_label and caption if there is such a feature."""
        name = f"{self.split}[{index}]"
        try:
            example = self.examples[index]
        except RuntimeError as error:  # array_record's checksums
            raise CorruptImage(f"{name}: {error}") from error
        annotation: dict[str, Any] = {"name": name}
        if self.label_key:
            annotation["class_label"] = int(example[self.label_key])
        if self.caption_key:
            annotation["caption"] = example[self.caption_key].decode("utf-8", "replace")
        return Record(annotation, lambda: example[self.image_key])

    def fingerprint(self) -> str:
        """Hash of names, sizes and modification times of the files, and of the split."""
        files = sorted(path for path in self.data_path.iterdir() if path.is_file())
        content = fingerprint_files(files) + self.split
        return hashlib.sha256(content.encode()).hexdigest()


def open_reader(spec: str, name: str, split: str) -> TfdsReader:
    """Open `NAME[:split]`; NAME is TFDS's, or the path of a prepared folder.

    A split in the spec (`train[:90%]`) goes before `split`; `val` is the first of
    validation, val, test that exists. The first image feature, class label and text are
    taken. Nothing is downloaded.

    Raises:
      FileNotFoundError: if the data set is not prepared as array_record.
      ValueError: if TFDS is not installed, or there is no such split or no image.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f'{spec!r} needs TFDS: install it with pip install "ldm-jax[tfds]"'
        ) from error
    name, given = _parse(name)
    builder = _open_builder(tfds, spec, name)
    chosen = given or _choose_split(spec, split, list(builder.info.splits))
    keys = {
        kind: _first_feature(builder, feature)
        for kind, feature in {
            "image": tfds.features.Image,
            "label": tfds.features.ClassLabel,
            "caption": tfds.features.Text,
        }.items()
    }
    if keys["image"] is None:
        raise ValueError(f"{spec!r} has no image feature: choose another data set")
    decoders = {keys["image"]: tfds.decode.SkipDecoding()}
    try:
        examples = builder.as_data_source(split=chosen, decoders=decoders)
    except (ValueError, NotImplementedError) as error:
        raise ValueError(f"{spec!r} cannot be read: {error}") from error
    label = keys["label"]
    return TfdsReader(
        spec=spec,
        split=chosen,
        data_path=Path(builder.data_path),
        examples=examples,
        image_key=keys["image"],
        label_key=label,
        caption_key=keys["caption"],
        class_names=tuple(builder.info.features[label].names or ()) if label else (),
    )


def _parse(name: str) -> tuple[str, str]:
    """NAME and split; a version, as in `cifar10:3.0.2`, belongs to the name."""
    match = re.fullmatch(r"(.+?)(?::([A-Za-z_][\w+\[\]:%-]*))?", name)
    return (match[1], match[2] or "") if match else (name, "")


def _open_builder(tfds: Any, spec: str, name: str) -> Any:
    advice = (
        f"{spec!r} is not prepared as array_record: run tensorflow_datasets.builder("
        f"{name!r}).download_and_prepare(file_format='array_record'), or give the path "
        "of a prepared folder"
    )
    try:
        if Path(name).expanduser().is_dir():
            builder = tfds.builder_from_directory(Path(name).expanduser())
        else:
            builder = tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, ValueError, OSError) as error:
        raise FileNotFoundError(advice) from error
    files = Path(builder.data_path)
    if not files.is_dir() or not any("array_record" in f.name for f in files.iterdir()):
        raise FileNotFoundError(advice)
    return builder


def _choose_split(spec: str, split: str, available: list[str]) -> str:
    for candidate in SPLITS.get(split, ()):
        if candidate in available or candidate == "all":
            return candidate
    raise ValueError(
        f"{spec!r} has no {split} split: add one of {', '.join(available)} after a colon"
    )


def _first_feature(builder: Any, kind: type) -> str | None:
    for name, feature in builder.info.features.items():
        if type(feature) is kind:
            return name
    return None
