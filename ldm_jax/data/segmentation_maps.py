"""Label maps beside pictures: PNGs whose values are classes."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32
from PIL import Image

from ldm_jax.data.images import FORMATS, CorruptImage, check_size
from ldm_jax.data.records import (
    MAX_CORRUPT_RUN,
    fingerprint_files,
    report_corrupt,
    too_many_corrupt,
)

# Grey of 1, 8, 16 and 32 bits; of a palette, the indices.
_LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")
_PICTURES = (".jpeg", ".jpg", ".png", ".webp")


@dataclass
class WithSegmentation:
    """A source whose pictures have a label map each, `segmentation` int32 [h, w].

    The map of `a/b.jpg` is `a/b.png` in `folder`, of the picture's own size. One that
    cannot be read is skipped with its picture, as pictures that cannot be read are.

    Attributes:
      source: of the pictures.
      folder: of the maps.

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: names the first picture without a map; when indexed, a map that is a
        colour picture or of another size.
    """

    source: Any
    folder: Path

    def __post_init__(self) -> None:
        self.folder = Path(self.folder).expanduser()
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"config.data.segmentation={self.folder} is not a folder: give the one "
                "that holds the label PNGs"
            )
        there = {
            (Path(place) / name).relative_to(self.folder).as_posix()
            for place, _, names in os.walk(self.folder, followlinks=True)
            for name in names
        }
        self._names = [self._name_of(i) for i in range(len(self.source))]
        for index, name in enumerate(self._names):
            if name not in there:
                picture = self.source.annotation(index)["name"]
                raise ValueError(
                    f"{picture} of {self.spec} has no label map: expected "
                    f"{self.folder / name}"
                )

    @property
    def spec(self) -> str:
        """That of the pictures."""
        return self.source.spec

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the pictures; labels have no names."""
        return self.source.class_names

    @property
    def corrupt(self) -> dict[str, str]:
        """Name -> reason, of unreadable pictures and maps met so far in this process."""
        return self.source.corrupt

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The picture at `index` with its map, or the first readable pair after it."""
        for offset in range(min(len(self), MAX_CORRUPT_RUN)):
            example = self.source[(index + offset) % len(self)]
            name = self._names[example["index"]]
            try:
                labels = read_labels(self.folder / name)
            except (CorruptImage, OSError) as error:
                report_corrupt(self, name, error)
                continue
            _check_size(self.folder / name, labels, example)
            return {**example, "segmentation": labels}
        raise too_many_corrupt(self)

    def annotation(self, index: int) -> dict[str, Any]:
        """As the pictures' source."""
        return self.source.annotation(index)

    def fingerprint(self) -> str:
        """A hash that changes when the pictures or the maps do."""
        maps = fingerprint_files(self.folder / name for name in self._names)
        return hashlib.sha256((self.source.fingerprint() + maps).encode()).hexdigest()

    def _name_of(self, index: int) -> str:
        name = self.source.annotation(index)["name"]
        stem, suffix = os.path.splitext(name)
        return f"{stem if suffix.lower() in _PICTURES else name}.png"


def read_labels(path: Path | str) -> Int32[np.ndarray, "h w"]:
    """Values of a grey picture of up to 16 bits, or indices of one with a palette.

    Raises:
      CorruptImage: if it cannot be read.
      ValueError: if it is a colour picture.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            check_size(picture)
            mode = picture.mode
            picture.load()
            labels = np.asarray(picture)
    except CorruptImage:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every type on bad bytes
        raise CorruptImage(" ".join(str(error).split()) or "unreadable") from error
    if mode not in _LABEL_MODES:
        raise ValueError(
            f"{path} is a colour picture ({mode}): a label map has one value a pixel, so "
            "save it as a grey or palette PNG"
        )
    return labels.astype(np.int32)


def _check_size(path: Path, labels: np.ndarray, example: Any) -> None:
    (height, width), size = labels.shape, example["image"].shape[:2]
    if (height, width) != size:
        raise ValueError(
            f"{path} has {height}x{width} pixels but its picture {example['name']} has "
            f"{size[0]}x{size[1]}: make the label map of the picture's size"
        )
