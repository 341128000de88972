"""Pictures, captions, boxes, label maps, vocabularies and statistics, damaged."""

import io
import json
import warnings

import numpy as np
import pytest
from fuzz.damage import damaged_bytes, damaged_tree
from fuzz.oracle import attempt
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ldm_jax.data.coco import WithBoxes
from ldm_jax.data.folder import CAPTION_FILES
from ldm_jax.data.images import decode_pixels
from ldm_jax.data.layouts import TokenizeLayout, read_layout
from ldm_jax.data.retrieval_index import IndexMeta, open_index, write_index
from ldm_jax.data.segmentation_maps import read_labels
from ldm_jax.data.sources import open_source
from ldm_jax.data.transforms import SquareImage
from ldm_jax.data.vocabularies import read_vocabulary
from ldm_jax.evaluation.references import read_reference

pytestmark = pytest.mark.filterwarnings("ignore")
KINDS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000")


def encoded(kind: str, **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 12, 3), np.uint8)
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112], tags[0x010E] = 6, "a description"
    return tags


PICTURES = [
    *(encoded(kind) for kind in KINDS),
    encoded("JPEG", exif=exif(), progressive=True),
    encoded("PNG", exif=exif(), icc_profile=bytes(200)),
    encoded("TIFF", compression="tiff_lzw"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@given(damaged_bytes(PICTURES))
def test_pictures(content):
    pixels = attempt("pictures", lambda: decode_pixels(content))
    if pixels is not None:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        square = SquareImage(8)({"image": pixels}, np.random.default_rng(0))
        assert square["image"].shape == (8, 8, 3)


@given(damaged_bytes(PICTURES[:3]))
def test_folders_of_pictures(folder, content):
    root = folder / "pictures"
    root.mkdir(exist_ok=True)
    for index in range(4):
        (root / f"{index}.png").write_bytes(content if index == 1 else PICTURES[0])

    def read():
        source = open_source(f"folder:{root}")
        return source, [source[i]["name"] for i in range(4)]

    source, names = attempt("folders of pictures", read)
    expected = "2.png" if source.corrupt else "1.png"
    assert names == ["0.png", expected, "2.png", "3.png"]


CAPTIONS = "".join(
    json.dumps({"file_name": f"{i}.png", "caption": f"picture {i}"}) + "\n"
    for i in range(3)
).encode()


@given(damaged_bytes([CAPTIONS]), st.sampled_from(CAPTION_FILES))
def test_captions(folder, content, name):
    root = folder / "captioned"
    root.mkdir(exist_ok=True)
    for old in CAPTION_FILES:
        (root / old).unlink(missing_ok=True)
    for index in range(3):
        (root / f"{index}.png").write_bytes(PICTURES[0])
    (root / name).write_bytes(content)

    def read():
        source = open_source(f"folder:{root}")
        return [source.annotation(i).get("caption", "") for i in range(3)]

    captions = attempt("captions", read, names=name)
    assert captions is None or all(isinstance(text, str) for text in captions)


COCO = {
    "images": [
        {"id": i, "file_name": f"{i}.png", "width": 12, "height": 20} for i in range(3)
    ],
    "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
    "annotations": [
        {
            "image_id": i % 3,
            "category_id": 7 + 2 * (i % 2),
            "bbox": [1.0, 2, 5, 6],
            "iscrowd": 0,
            "is_occluded": 1,
        }
        for i in range(7)
    ],
}


def boxes_of(root, path):
    source = WithBoxes(open_source(f"folder:{root}"), path)
    tokens = TokenizeLayout(len(source.class_names))
    for index in range(len(source)):
        example = SquareImage(8)(source[index], np.random.default_rng(0))
        layout = example["layout"]
        assert np.all(layout.boxes >= 0) and np.all(layout.boxes <= 1 + 1e-6)
        assert np.all(layout.classes < len(source.class_names))
        assert tokens(example, np.random.default_rng(0))["tokens"].dtype == np.int32
    return source


def written_boxes(folder, content: bytes):
    root = folder / "boxed"
    root.mkdir(exist_ok=True)
    for index in range(3):
        (root / f"{index}.png").write_bytes(PICTURES[0])
    path = folder / "instances.json"
    path.write_bytes(content)
    return root, path


@given(damaged_tree(COCO))
def test_boxes(folder, tree):
    root, path = written_boxes(folder, json.dumps(tree).encode())
    attempt("boxes", lambda: boxes_of(root, path), names=path.name)


@given(damaged_bytes([json.dumps(COCO).encode()]))
def test_files_of_boxes(folder, content):
    root, path = written_boxes(folder, content)
    attempt("files of boxes", lambda: boxes_of(root, path), names=path.name)


LAYOUT = [
    {"class": "cat", "box": [0.1, 0.2, 0.3, 0.4]},
    {"class": 1, "box": [0, 0, 1, 1], "is_group": True, "is_inside": False},
]


@given(damaged_tree(LAYOUT))
def test_layouts(folder, tree):
    path = folder / "layout.json"
    path.write_text(json.dumps(tree))
    layout = attempt(
        "layouts", lambda: read_layout(path, ("cat", "dog")), names=path.name
    )
    if layout is not None:
        assert np.all(np.isfinite(layout.boxes)) and np.all(layout.boxes >= 0)
        assert np.all(layout.boxes[:, :2] + layout.boxes[:, 2:] <= 1 + 1e-5)
        assert np.all((layout.classes >= 0) & (layout.classes < 2))


@given(damaged_bytes([json.dumps(LAYOUT).encode()]))
def test_files_of_layouts(folder, content):
    path = folder / "layout.json"
    path.write_bytes(content)
    attempt("files of layouts", lambda: read_layout(path), names=path.name)


def label_maps() -> list[bytes]:
    labels = np.random.default_rng(0).integers(0, 256, (6, 9), np.uint8)
    found = []
    for image in (Image.fromarray(labels), Image.fromarray(labels).convert("P")):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


@given(damaged_bytes(label_maps()))
def test_label_maps(folder, content):
    path = folder / "labels.png"
    path.write_bytes(content)
    labels = attempt("label maps", lambda: read_labels(path))
    assert labels is None or (labels.dtype == np.int32 and labels.ndim == 2)


WORDS = "".join(
    f"{token}\n" for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b")
).encode()
WORDS_JSON = json.dumps(
    {
        "model": {
            "type": "WordPiece",
            "vocab": {word: i for i, word in enumerate(WORDS.decode().split())},
        }
    }
).encode()


@given(st.sampled_from(["vocab.txt", "tokenizer.json"]), st.data())
def test_vocabularies(folder, name, data):
    root = folder / "tokenizer"
    root.mkdir(exist_ok=True)
    for old in root.iterdir():
        old.unlink()
    original = WORDS if name == "vocab.txt" else WORDS_JSON
    (root / name).write_bytes(data.draw(damaged_bytes([original])))
    found = attempt("vocabularies", lambda: read_vocabulary("wordpiece", root))
    if found is not None:
        assert sorted(found.ids.values()) == list(range(len(found.ids)))


def statistics() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, mu=np.arange(4.0), sigma=np.eye(4), count=np.int64(50))
    return buffer.getvalue()


@given(damaged_bytes([statistics()]))
def test_statistics(folder, content):
    path = folder / "statistics.npz"
    path.write_bytes(content)
    found = attempt("statistics", lambda: read_reference(path), names=path.name)
    if found is not None:  # zip's own checksums saw nothing: nor is anything wrong
        for moments in found.features.moments.values():
            np.testing.assert_array_equal(moments.mean, np.arange(4.0))


@pytest.fixture(scope="module")
def index_files(folder):
    root = folder / "index"
    root.mkdir()
    rows = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    meta = IndexMeta(
        *("folder:x", "train", "f", "clip:y", "", "w", "p"), 64, "smallest"
    )
    write_index(root, [(rows, [str(i) for i in range(6)])], meta, max_count=9)
    return {path.name: path.read_bytes() for path in root.iterdir()}


@given(st.data())
def test_retrieval_indices(folder, index_files, data):
    root = folder / "index"
    damaged = data.draw(st.sampled_from(sorted(index_files)))
    for name, content in index_files.items():
        (root / name).write_bytes(content)
    (root / damaged).write_bytes(data.draw(damaged_bytes([index_files[damaged]])))

    def read():
        index = open_index(root)
        return index.search(index.vectors(np.arange(2, dtype=np.int32)), 2).rows

    found = attempt("retrieval indices", read, names=str(root))
    if found is not None:
        np.testing.assert_array_equal(found[:, 0], [0, 1])
