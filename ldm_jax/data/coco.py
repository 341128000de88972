"""Boxes beside pictures: an instances file in COCO's format."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.data.layouts import FLAGS, Layout, concatenate
from ldm_jax.data.records import MAX_CORRUPT_RUN, too_many_corrupt

# COCO has a name of its own for a group. OpenImages' -1, unknown, counts as no.
_FLAG_KEYS = {"is_group": ("is_group", "iscrowd")}

logger = logging.getLogger(__name__)


class Instances(NamedTuple):
    """What an instances file says.

    Attributes:
      class_names: of the categories, in the file's order.
      layouts: file name -> its objects; those without a visible area are left out.
      digest: hash of the file.
    """

    class_names: tuple[str, ...]
    layouts: dict[str, Layout]
    digest: str


@dataclass
class WithBoxes:
    """The pictures of a source that have boxes, with a `layout` each.

    A picture is found in the file by its name in the source, or by its last part where
    that is unique in both. Classes are the file's categories; those of the source, and
    its `class_label`, are left out. Which pictures there are is settled once, here.

    Attributes:
      source: of the pictures.
      path: the JSON: `images` (`id`, `file_name`, `width`, `height`), `annotations`
        (`image_id`, `category_id`, `bbox` in pixels, `iscrowd` or OpenImages'
        `is_group`, `is_occluded`, `is_depiction`, `is_inside`), `categories` (`id`,
        `name`).
      num_objects: pictures with fewer or more are left out; 2 to 30 in the reference.
      min_object_area: smaller objects, as shares of the picture, are left out.

    Raises:
      FileNotFoundError, ValueError: one sentence that says what is wrong in the file,
        or that no picture is left.
    """

    source: Any
    path: Path
    num_objects: tuple[int, int] = (2, 30)
    min_object_area: float = 1e-4
    class_names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.path = Path(self.path).expanduser()
        self.class_names, layouts, self._digest = read_instances(self.path)
        names = [self.source.annotation(i)["name"] for i in range(len(self.source))]
        paired = _pair(names, layouts)
        if not paired:
            raise ValueError(
                f"{self.path} has no boxes for any picture of {self.spec}: it names "
                f"{next(iter(layouts), 'none')!r} where the source has {names[0]!r}, so "
                "give the file that belongs to these pictures"
            )
        fewest, most = self.num_objects
        kept = {row: self._large_enough(layouts[name]) for row, name in paired.items()}
        self._rows = [
            row for row, layout in kept.items() if fewest <= layout.num_objects <= most
        ]
        if not self._rows:
            raise ValueError(
                f"no picture of {self.spec} has {fewest} to {most} objects in "
                f"{self.path}: set --config.data.num_objects to what they have"
            )
        # One layout of all objects: a hundred thousand of their own pickle slowly.
        counts = [kept[row].num_objects for row in self._rows]
        self._ends = np.cumsum(counts)
        self._objects = concatenate([kept[row] for row in self._rows])
        logger.info(
            "%d of %d pictures have boxes, %d of them %d to %d objects",
            *(len(paired), len(names), len(self._rows), fewest, most),
        )

    @property
    def spec(self) -> str:
        """That of the pictures."""
        return self.source.spec

    @property
    def corrupt(self) -> dict[str, str]:
        """Name -> reason, of unreadable pictures met so far in this process."""
        return self.source.corrupt

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The picture at `index` with its layout, or the first readable one after it.

        Raises:
          IndexError: outside `[0, len)`.
          ValueError: if very many in a row are corrupt.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)} in {self.spec}")
        for offset in range(min(len(self), MAX_CORRUPT_RUN)):
            candidate = (index + offset) % len(self)
            row = self._rows[candidate]
            example = self.source[row]
            if example["index"] == row:  # else a stand-in, with other boxes or none
                return self._with_layout(example, candidate) | {"index": candidate}
        raise too_many_corrupt(self)

    def annotation(self, index: int) -> dict[str, Any]:
        """Everything but the picture, not decoded."""
        return self._with_layout(self.source.annotation(self._rows[index]), index)

    def fingerprint(self) -> str:
        """A hash that changes when the pictures, the file or the choice do."""
        parts = (self.source.fingerprint(), self._digest, self.num_objects)
        content = repr((*parts, self.min_object_area))
        return hashlib.sha256(content.encode()).hexdigest()

    def _with_layout(self, example: Mapping[str, Any], index: int) -> dict[str, Any]:
        rest = {k: v for k, v in example.items() if k != "class_label"}
        start = self._ends[index - 1] if index else 0
        return {**rest, "layout": self._objects.take(np.s_[start : self._ends[index]])}

    def _large_enough(self, layout: Layout) -> Layout:
        area = layout.boxes[:, 2] * layout.boxes[:, 3]
        return layout.take(area >= self.min_object_area)


def read_instances(path: Path) -> Instances:
    """Read a file in COCO's format; see `WithBoxes`.

    Boxes are cut off at the border of their picture.

    Raises:
      FileNotFoundError, ValueError: one sentence that says what is wrong.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"config.data.layout={path} is not a file: give an instances json in COCO's "
            "format"
        )
    content = path.read_bytes()
    try:
        tables = json.loads(content)
        images, annotations, categories = (
            tables[name] for name in ("images", "annotations", "categories")
        )
        labels = {row["id"]: i for i, row in enumerate(categories)}
        names = tuple(str(row["name"]) for row in categories)
        sizes = {row["id"]: (row["width"], row["height"]) for row in images}
        files = {row["id"]: str(row["file_name"]) for row in images}
        if flat := [key for key, size in sizes.items() if min(size) <= 0]:
            raise ValueError(f"image {flat[0]} has no width or no height")
        objects = _by_picture(annotations, labels, sizes)
    except (ValueError, KeyError, TypeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path} is no instances json in COCO's format ({what}): it needs images "
            "(id, file_name, width, height), annotations (image_id, category_id, bbox) "
            "and categories (id, name)"
        ) from error
    repeated = [name for name, n in Counter(files.values()).items() if n > 1]
    if repeated:
        raise ValueError(f"{path} names {repeated[0]!r} twice: give it one entry")
    layouts = {files[key]: _layout(rows, sizes[key]) for key, rows in objects.items()}
    return Instances(names, layouts, hashlib.sha256(content).hexdigest())


def _by_picture(
    annotations: Sequence[Mapping[str, Any]],
    labels: Mapping[Any, int],
    sizes: Mapping[Any, tuple[int, int]],
) -> dict[Any, list[tuple]]:
    """Image id -> (box in pixels, class, flags) of its annotations."""
    objects: dict[Any, list[tuple]] = {key: [] for key in sizes}
    for row in annotations:
        image, category = row["image_id"], row["category_id"]
        if image not in sizes or category not in labels:
            what = f"image_id {image}" if image not in sizes else f"category {category}"
            raise ValueError(f"an annotation has the unknown {what}")
        box = np.asarray(row["bbox"], float)
        if box.shape != (4,) or not np.isfinite(box).all():
            raise ValueError(f"an annotation of image {image} has bbox {row['bbox']}")
        flags = [
            any(row.get(key) == 1 for key in _FLAG_KEYS.get(flag, (flag,)))
            for flag in FLAGS
        ]
        objects[image].append((box, labels[category], flags))
    return objects


def _layout(rows: list[tuple], size: tuple[int, int]) -> Layout:
    boxes = np.array([box for box, _, _ in rows]).reshape(-1, 4)
    start = np.clip(boxes[:, :2] / size, 0, 1)
    end = np.clip((boxes[:, :2] + boxes[:, 2:]) / size, 0, 1)
    flags = np.array([flags for _, _, flags in rows], bool).reshape(-1, len(FLAGS))
    layout = Layout(
        np.concatenate([start, end - start], 1),
        np.array([label for _, label, _ in rows], np.int32),
        **dict(zip(FLAGS, flags.T, strict=True)),
    )
    return layout.take(np.all(end > start, axis=1))


def _pair(names: Sequence[str], layouts: Mapping[str, Layout]) -> dict[int, str]:
    """Index of a picture -> its name in the file, of those that are there."""
    last_parts = Counter(_last_part(name) for name in layouts)
    by_last_part = {
        _last_part(name): name for name in layouts if last_parts[_last_part(name)] == 1
    }
    in_source = Counter(map(_last_part, names))
    paired = {}
    for row, name in enumerate(names):
        found = name if name in layouts else None
        if found is None and in_source[_last_part(name)] == 1:
            found = by_last_part.get(_last_part(name))
        if found is not None:
            paired[row] = found
    return paired


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]
