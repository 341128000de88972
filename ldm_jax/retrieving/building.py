"""Making an index: of a source of pictures, or from a published database."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ldm_jax.conversion.imported_workdir import new_folder
from ldm_jax.data.retrieval_index import Index, IndexMeta, open_index, write_index
from ldm_jax.data.sources import open_source
from ldm_jax.evaluating.picture_stream import shown
from ldm_jax.features.networks import find_network
from ldm_jax.retrieving.embedding import Embedder, parse_network


def build_index(
    source: str,
    network: str,
    output: str | Path,
    *,
    split: str = "train",
    image_size: int = 256,
    resize: str = "smallest_antialias",
    num_patches: int = 1,
) -> Index:
    """Embed the pictures of a source and write an index of them.

    Args:
      source: as `config.data.source`; unreadable pictures get no row.
      network: `clip:FOLDER` or another feature network, with or without a path.
      output: a new folder, there when it is complete.
      image_size, resize: of the squares that are embedded.
      num_patches: of each picture; more than one are cut at random, which needs a resize
        that leaves room, such as smallest_512.

    Raises:
      FileNotFoundError, ValueError: one sentence for whatever is missing or wrong.
    """
    if num_patches < 1:
        raise ValueError(f"num_patches is {num_patches}: give 1 or more")
    pictures = open_source(source, split=split)
    name, path = parse_network(network)
    found = find_network(name, path or None)
    embedder = Embedder(found, image_size, resize)
    meta = IndexMeta(
        source=source,
        split=split,
        fingerprint=pictures.fingerprint(),
        network=name,
        network_path=path,
        weights_sha256=found.weights_sha256,
        preprocessing=found.preprocessing,
        image_size=image_size,
        resize=resize,
        num_patches=num_patches,
    )

    def parts() -> Iterator[tuple[np.ndarray, list[str]]]:
        for rows, names, is_real in embedder.source(pictures, num_patches=num_patches):
            real = np.flatnonzero(is_real)
            yield rows[real], [names[i] for i in real]

    max_count = len(pictures) * num_patches
    with new_folder(output) as folder:
        write_index(
            folder, _with_progress(parts(), max_count), meta, max_count=max_count
        )
    return open_index(output)


def import_published(
    files: Sequence[str | Path],
    network: str,
    output: str | Path,
    *,
    image_size: int = 256,
    resize: str = "smallest_antialias",
) -> Index:
    """An index of the .npz files of a database published with the original.

    They hold `embedding` [n, d], `img_id` and `patch_coords`; the embeddings are CLIP
    ViT-L/14's, of crops that the original resizes without smoothing: queries, which are
    smoothed as OpenAI's are, differ from them a little.

    Args:
      files: in the order of the rows.
      network: what queries are to be embedded with: `clip:FOLDER`.

    Raises:
      FileNotFoundError, ValueError: one sentence for whatever is missing or wrong.
    """
    name, path = parse_network(network)
    found = find_network(name, path or None)
    files = [Path(file) for file in files]
    meta = IndexMeta(
        source=f"published:{','.join(file.name for file in files)}",
        split="all",
        fingerprint="",
        network=name,
        network_path=path,
        weights_sha256=found.weights_sha256,
        preprocessing=found.preprocessing,
        image_size=image_size,
        resize=resize,
    )
    count = sum(len(_read_published(file)[1]) for file in files)
    parts = (_read_published(file) for file in files)
    with new_folder(output) as folder:
        write_index(folder, parts, meta, max_count=count)
    return open_index(output)


def _read_published(file: Path) -> tuple[Float[np.ndarray, "n d"], list[str]]:
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: give an .npz of a database")
    try:
        with np.load(file, allow_pickle=False) as archive:
            embeddings = np.asarray(archive["embedding"])
            names = _names(archive, len(embeddings))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{file} is no published database ({error}): it must be an .npz with an "
            "array `embedding`, as downloaded"
        ) from error
    if embeddings.ndim != 2 or len(names) != len(embeddings):
        raise ValueError(
            f"{file} has embeddings of shape {list(embeddings.shape)} and {len(names)} "
            "ids: get it again"
        )
    return embeddings.astype(np.float32), names


def _names(archive: np.lib.npyio.NpzFile, count: int) -> list[str]:
    """`img_id` as text; row numbers where it is pickled, and so not read."""
    try:
        return [str(name) for name in archive["img_id"]]
    except (KeyError, ValueError):
        return [f"row {index}" for index in range(count)]


def _with_progress(
    parts: Iterator[tuple[np.ndarray, list[str]]], total: int
) -> Iterator[tuple[np.ndarray, list[str]]]:
    """The same parts; `shown` counts the rows of arrays, so it is given these."""
    names: list[list[str]] = []

    def rows() -> Iterator[np.ndarray]:
        for embeddings, part_names in parts:
            names.append(part_names)
            yield embeddings

    for embeddings in shown(rows(), total, "embedding"):
        yield embeddings, names.pop(0)
