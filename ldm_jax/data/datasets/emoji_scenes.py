"""emoji_scenes: pictures composed of several emoji64 drawings, so that all is known.

What is where is known exactly: boxes, classes and the class of every pixel. A scene is
made when it is asked for, from its split and index alone.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, UInt8
from PIL import Image
from scipy import ndimage

from ldm_jax.data.datasets import emoji64
from ldm_jax.data.images import decode_pixels
from ldm_jax.data.layouts import Layout

IMAGE_SIZE = 64
NUM_SCENES = {"train": 6000, "val": 500}
SPLITS = {"train": ("train",), "val": ("val",), "all": ("train", "val")}
QUARTER = IMAGE_SIZE // 2
MIN_SIDE = 26
WHITE = 250  # a pixel with a darker channel than this belongs to the drawing


class Placed(NamedTuple):
    """A drawing at its size and place: `pixels`, what of them is drawn, (x, y), class."""

    pixels: UInt8[np.ndarray, "s s 3"]
    is_drawn: Bool[np.ndarray, "s s"]
    x: int
    y: int
    label: int
    name: str


def open_source(spec: str, split: str) -> "EmojiScenes":
    """The scenes of one split: 6,000 of `train`, 500 of `val`, `all` of them.

    Raises:
      FileNotFoundError: if the package came without its assets.
      ValueError: for another split.
    """
    emoji64.open_reader(spec, split)
    return EmojiScenes(spec, SPLITS[split])


@dataclass
class EmojiScenes:
    """64x64 pictures of two to four drawings of 26 to 32 pixels on white.

    The categories are drawn evenly, then a drawing of the same split of emoji64; each is
    put somewhere into a quarter of the picture that no other one shares: where ink is
    follows from the boxes early in a training, as it must in a short one. Example keys
    beside `image`, `index` and `name`: `layout` (the tight boxes of the drawings),
    `segmentation` (the category of every pixel that is drawn, 8 for the background) and
    `caption` ("red apple and cat face", in the order of the boxes).

    Attributes:
      spec: what it was opened with.
      splits: of emoji64, one after the other.
      corrupt: always empty; see `ImageSource`.
    """

    spec: str
    splits: tuple[str, ...]
    corrupt: dict[str, str] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The eight categories, sorted."""
        return self._drawings[self.splits[0]].class_names

    def __len__(self) -> int:
        return sum(NUM_SCENES[split] for split in self.splits)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The scene at `index`.

        Raises:
          IndexError: outside `[0, len)`.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)} in {self.spec}")
        split, number = self.splits[0], index
        if index >= NUM_SCENES[split]:
            split, number = self.splits[1], index - NUM_SCENES[split]
        # 0 and 1, so that the two splits never share a stream.
        generator = np.random.default_rng([list(NUM_SCENES).index(split), number])
        placed = self._drawings[split].place(generator)
        image = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 255, np.uint8)
        labels = np.full((IMAGE_SIZE, IMAGE_SIZE), len(self.class_names), np.int32)
        for drawing in placed:
            _paint(drawing, image, labels)
        names = [drawing.name for drawing in placed]
        return {
            "image": image,
            "index": index,
            "name": f"{split}/{number:04d}.png",
            "layout": _layout(placed),
            "segmentation": labels,
            "caption": f"{', '.join(names[:-1])} and {names[-1]}",
        }

    def annotation(self, index: int) -> dict[str, Any]:
        """Everything but the picture, which is composed all the same."""
        example = self[index]
        return {k: v for k, v in example.items() if k not in ("image", "index")}

    def fingerprint(self) -> str:
        """Hash of the drawings, and of two scenes for the way they are composed."""
        digest = hashlib.sha256()
        for drawings in self._drawings.values():
            digest.update(drawings.reader.fingerprint().encode())
        for index in (0, len(self) - 1):
            digest.update(self[index]["image"].tobytes())
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec, "splits": self.splits, "corrupt": self.corrupt}

    @cached_property
    def _drawings(self) -> dict[str, "_Drawings"]:
        return {
            split: _Drawings(emoji64.open_reader(self.spec, split))
            for split in self.splits
        }


@dataclass
class _Drawings:
    """The drawings of one split, decoded once."""

    reader: emoji64.Emoji64Reader
    _pixels: dict[int, np.ndarray] = field(default_factory=dict)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        return self.reader.class_names

    @cached_property
    def _by_class(self) -> list[np.ndarray]:
        records = [self.reader.record(i).annotation for i in range(len(self.reader))]
        labels = np.array([record["class_label"] for record in records])
        return [np.flatnonzero(labels == i) for i in range(len(self.class_names))]

    def place(self, generator: np.random.Generator) -> list[Placed]:
        """Choose two to four drawings, their sizes and their places."""
        quarters = generator.permutation(4)[: generator.integers(2, 5)]
        placed = []
        for row, column in zip(*divmod(quarters, 2), strict=True):
            label = int(generator.integers(len(self.class_names)))
            index = int(generator.choice(self._by_class[label]))
            side = int(generator.integers(MIN_SIDE, QUARTER + 1))
            x, y = generator.integers(0, QUARTER - side + 1, 2)
            x, y = int(column * QUARTER + x), int(row * QUARTER + y)
            name = self.reader.record(index).annotation["caption"].rpartition(",")[0]
            placed.append(Placed(*self._scaled(index, side), x, y, label, name))
        return placed

    def _scaled(self, index: int, side: int) -> tuple[np.ndarray, np.ndarray]:
        if index not in self._pixels:
            self._pixels[index] = decode_pixels(self.reader.record(index).load())
        whole = Image.fromarray(self._pixels[index])
        pixels = np.asarray(whole.resize((side, side), Image.Resampling.LANCZOS))
        return pixels, _fill(pixels.min(-1) < WHITE)


def _fill(is_drawn: Bool[np.ndarray, "s s"]) -> Bool[np.ndarray, "s s"]:
    """With what is enclosed: white inside a drawing, as a ghost's, is part of it."""
    regions, _ = ndimage.label(np.pad(~is_drawn, 1, constant_values=True))  # pyright: ignore
    return regions[1:-1, 1:-1] != regions[0, 0]


def _paint(
    drawing: Placed, image: UInt8[np.ndarray, "h w 3"], labels: Int32[np.ndarray, "h w"]
) -> None:
    """In place."""
    side = len(drawing.pixels)
    window = np.s_[drawing.y : drawing.y + side, drawing.x : drawing.x + side]
    image[window][drawing.is_drawn] = drawing.pixels[drawing.is_drawn]
    labels[window][drawing.is_drawn] = drawing.label


def _layout(placed: list[Placed]) -> Layout:
    boxes = []
    for drawing in placed:
        rows, columns = (np.flatnonzero(drawing.is_drawn.any(i)) for i in (1, 0))
        x, y = drawing.x + columns[0], drawing.y + rows[0]
        boxes.append((x, y, np.ptp(columns) + 1, np.ptp(rows) + 1))
    labels = np.array([drawing.label for drawing in placed])
    return Layout(np.array(boxes, np.float32) / IMAGE_SIZE, labels)
