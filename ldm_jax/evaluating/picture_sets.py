"""Sets of pictures to evaluate: a folder, an .npz, a data source, read in batches."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from ldm_jax.data.datasets import DATASETS
from ldm_jax.data.folder import EXTENSIONS
from ldm_jax.data.images import decode_pixels
from ldm_jax.data.pipeline import eval_batches
from ldm_jax.data.records import Source
from ldm_jax.data.sources import FORMATS, open_source
from ldm_jax.data.transforms import SquareImage
from ldm_jax.evaluating.picture_stream import Batches

# What sample.py writes beside the samples.
_NO_SAMPLES = ("grid.png", "previews.png")
_LOSSLESS = (".png",)


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one size.

    Attributes:
      count: how many.
      image_size: height and width.
      read: `(batch_size, share) -> batches`; `share` (i, n) is every n-th batch from the
        i-th on, for process i of n.
      recipe: what they are and how they were made, for the protocol.
    """

    count: int
    image_size: tuple[int, int]
    read: Callable[[int, tuple[int, int]], Batches]
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def batches(self, batch_size: int) -> Batches:
        """This process's share of the pictures."""
        share = jax.process_index(), jax.process_count()
        return self.read(batch_size, share)

    @property
    def protocol(self) -> dict[str, Any]:
        """The recipe with count and size."""
        size = list(self.image_size)
        return {"count": self.count, "image_size": size, **self.recipe}


@dataclass(frozen=True)
class Subset:
    """Chosen pictures of a source, as a source."""

    source: Source
    rows: np.ndarray

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the source."""
        return self.source.class_names

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """The picture, whose `index` is that in the subset (-1 for a stand-in)."""
        row = int(self.rows[index])
        example = self.source[row]
        is_itself = example.get("index", row) == row
        return {**example, "index": index if is_itself else -1}

    def annotation(self, index: int) -> Mapping[str, Any]:
        """Everything but the picture."""
        return self.source.annotation(int(self.rows[index]))

    def fingerprint(self) -> str:
        """Of the source and the choice."""
        choice = hashlib.sha256(self.rows.tobytes()).hexdigest()
        return f"{self.source.fingerprint()}-{choice[:16]}"


def is_source(spec: str) -> bool:
    """Whether `spec` is written as a data source (`folder:PATH`, `emoji64:val`)."""
    kind = spec.partition(":")[0]
    return kind in FORMATS or kind in DATASETS


def from_source(
    spec: str,
    transform: SquareImage,
    *,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
) -> PictureSet:
    """The pictures of a data source, made square as for training, without chance.

    Args:
      limit: take that many, drawn with `seed`; all if None or if there are no more.

    Raises:
      FileNotFoundError, ValueError: one sentence that says what is missing or wrong.
    """
    source = open_source(spec, split=split)
    transform = transform.for_evaluation()
    chosen, of = choose(source, limit, seed), len(source)
    _, _, named_split = spec.partition(":")
    is_vendored = spec.partition(":")[0] in DATASETS
    recipe = {
        "source": spec,
        "split": (is_vendored and named_split) or split,
        "source_count": of,
        "fingerprint": chosen.fingerprint(),
        "resize": transform.resize,
        "crop": transform.crop,
        "number_format": "uint8",
    }
    if len(chosen) < of:
        recipe["subset_seed"] = seed

    def read(batch_size: int, share: tuple[int, int]) -> Batches:
        index, count = share
        mine = [
            np.arange(start, min(start + batch_size, len(chosen)))
            for start in range(index * batch_size, len(chosen), count * batch_size)
        ]
        if not mine:
            return
        part = chosen if count == 1 else Subset(chosen, np.concatenate(mine))
        with closing(_pixel_batches(part, transform, batch_size)) as batches:
            yield from batches

    size = transform.image_size
    return PictureSet(len(chosen), (size, size), read, recipe)


def choose(source: Any, limit: int | None, seed: int) -> Any:
    """`limit` random pictures of a source; all of them if there are no more."""
    if limit is None or limit >= len(source):
        return source
    rows = np.random.default_rng(seed).permutation(len(source))[:limit]
    return Subset(source, np.sort(rows))


def _pixel_batches(
    source: Any, transform: SquareImage, batch_size: int
) -> Generator[np.ndarray, None, None]:
    with closing(eval_batches(source, transform, batch_size=batch_size)) as batches:
        for batch in batches:
            image = batch["image"][batch["mask"] > 0]  # pyright: ignore
            if len(image):
                yield np.rint((image + 1) * 127.5).astype(np.uint8)


def from_folder(path: str | Path, *, limit: int | None = None) -> PictureSet:
    """The pictures in a folder as they are, the first `limit` by name.

    In a folder of sample.py (it has a samples.json) grid and previews are left out, and
    its settings are in the recipe.

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: if it has no pictures, or they have different sizes.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} is no folder of pictures: give a folder, an .npz or a source such "
            "as folder:PATH"
        )
    record = root / "samples.json"
    skipped = _NO_SAMPLES if record.is_file() else ()
    found = [p for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS]
    paths = sorted(p for p in found if p.name not in skipped)[:limit]
    if not paths:
        raise ValueError(f"{root} has no pictures: looked for {' '.join(EXTENSIONS)}")
    size = decode_pixels(paths[0].read_bytes()).shape[:2]
    suffixes = {p.suffix.lower() for p in paths}
    is_lossless = suffixes <= set(_LOSSLESS)
    recipe: dict[str, Any] = {
        "folder": str(path),
        "number_format": "uint8 png" if is_lossless else "uint8, lossy files",
    }
    if skipped:
        recipe["sampling"] = json.loads(record.read_text())
        recipe["number_format"] += ", rounded"

    def read(batch_size: int, share: tuple[int, int]) -> Batches:
        for chunk in _shared(paths, batch_size, share):
            yield np.stack([_decode(p, size) for p in chunk])

    return PictureSet(len(paths), size, read, recipe)


def _decode(path: Path, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    try:
        pixels = decode_pixels(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it") from error
    if pixels.shape[:2] != size:
        raise ValueError(
            f"{path} has {pixels.shape[0]}x{pixels.shape[1]} pixels and the first picture "
            f"of its folder {size[0]}x{size[1]}: give pictures of one size, or the folder "
            "as a source (folder:PATH) to have them resized"
        )
    return pixels


def from_npz(path: str | Path, *, limit: int | None = None) -> PictureSet:
    """The uint8 `[n H W 3]` array of an .npz (`arr_0` or its only one), never read whole.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is damaged or holds no such array.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: give an .npz of pictures")
    member, shape = _member(path)
    count = shape[0] if limit is None else min(limit, shape[0])

    def read(batch_size: int, share: tuple[int, int]) -> Batches:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            _header(file)
            for number, start in enumerate(range(0, count, batch_size)):
                rows = min(batch_size, count - start)
                content = file.read(rows * int(np.prod(shape[1:])))
                if number % share[1] == share[0]:
                    flat = np.frombuffer(content, np.uint8)
                    yield flat.reshape(rows, *shape[1:])

    recipe = {"npz": str(path), "number_format": "uint8"}
    return PictureSet(count, (shape[1], shape[2]), read, recipe)


def _member(path: Path) -> tuple[str, tuple[int, ...]]:
    """Name and shape of the array of pictures."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            name = "arr_0.npy" if "arr_0.npy" in names else names[0]
            with archive.open(name) as file:
                shape, is_fortran, dtype = _header(file)
    except (zipfile.BadZipFile, ValueError, EOFError, IndexError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as an .npz ({error}): write it again"
        ) from error
    is_pictures = len(shape) == 4 and shape[-1] == 3 and shape[0] > 0
    if not is_pictures or dtype != np.uint8 or is_fortran:
        raise ValueError(
            f"{path} holds {name} as {dtype}{list(shape)}, which are no pictures: give "
            "uint8 [n, h, w, 3]"
        )
    return name, shape


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _shared(items: list, size: int, share: tuple[int, int]) -> Iterator[list]:
    """Every n-th run of `size` items, from the i-th on."""
    index, count = share
    for start in range(index * size, len(items), count * size):
        yield items[start : start + size]
