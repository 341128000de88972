"""An index of embeddings, and tables of neighbours for training."""

import json
import pickle
import sys

import numpy as np
import pytest

from ldm_jax.data import nearest, retrieval_index
from ldm_jax.data.latent_cache import ChooseFlip, LatentCache, LatentSource
from ldm_jax.data.pipeline import make_loader
from ldm_jax.data.retrieval import (
    LookUpNeighbors,
    open_neighbor_table,
    write_neighbor_table,
)
from ldm_jax.data.retrieval_index import IndexMeta, open_index, unit, write_index
from ldm_jax.data.transforms import Chain

META = IndexMeta(
    source="folder:/pictures",
    split="train",
    fingerprint="f",
    network="clip",
    network_path="/clip",
    weights_sha256="0" * 64,
    preprocessing="none",
    image_size=64,
    resize="smallest",
)
WIDTH = 12


def vectors(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def names_of(count):
    return [f"{index:05d}.png" for index in range(count)]


def make(folder, rows, names=None):
    folder.mkdir(parents=True, exist_ok=True)
    names = names or names_of(len(rows))
    half = len(rows) // 2
    parts = [(rows[:half], names[:half]), (rows[half:], names[half:])]
    return write_index(folder, parts, META, max_count=len(rows))


def exact_neighbors(stored, queries, k, own=None):
    """Rows by falling inner product in float64; `own[i]` are left out for query i."""
    products = queries.astype(np.float64) @ stored.astype(np.float64).T
    for row, left_out in enumerate(own or []):
        products[row, left_out] = -np.inf
    return np.argsort(-products, axis=1, kind="stable")[:, :k]


def test_neighbors_are_those_that_numpy_finds(tmp_path):
    index, queries = make(tmp_path, vectors(300)), unit(vectors(1500, seed=1))
    found = index.search(queries, 7)
    np.testing.assert_array_equal(
        found.rows, exact_neighbors(index.embeddings, queries, 7)
    )
    neighbors = index.vectors(found.rows)
    np.testing.assert_allclose(
        found.similarity, np.einsum("md,mkd->mk", queries, neighbors), atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.norm(neighbors, axis=-1), 1, atol=1e-3)
    reopened = open_index(tmp_path)
    np.testing.assert_array_equal(reopened.search(queries, 7).rows, found.rows)
    assert reopened.meta.count == 300 and reopened.meta.embed_dim == WIDTH


def test_a_picture_never_finds_a_row_of_its_own_name(tmp_path):
    rows = vectors(40)
    rows[1::2] = rows[::2]  # pairs of equal rows
    names = [f"{index // 4}.png" for index in range(40)]  # four patches a picture
    index = make(tmp_path, rows, names)
    queries = index.vectors(np.arange(40))
    own = [np.arange(row // 4 * 4, row // 4 * 4 + 4) for row in range(40)]
    found = index.search(queries, 5, names=names).rows
    products = queries @ queries.T
    for row in range(40):
        assert not set(found[row]) & set(own[row])
        left = np.delete(products[row], own[row])
        np.testing.assert_allclose(
            products[row, found[row]], np.sort(left)[::-1][:5], atol=1e-6
        )
    # Without a name of the index, the row itself comes first.
    others = index.search(queries, 1, names=["elsewhere.png"] * 40).rows
    np.testing.assert_allclose(products[np.arange(40), others[:, 0]], 1, atol=1e-3)


@pytest.fixture
def clustered(tmp_path, monkeypatch):
    """5,000 rows around 50 centres, searched through leaves."""
    monkeypatch.setattr(retrieval_index, "EXACT_BELOW", 1000)
    centres = np.random.default_rng(5).integers(0, 50, 5000)
    return make(tmp_path, 2 * vectors(50, seed=3)[centres] + vectors(5000))


def test_leaves_find_nearly_all_of_the_nearest(clustered):
    queries = clustered.vectors(np.arange(0, 5000, 25))
    expected = exact_neighbors(clustered.embeddings, queries, 10)
    found = clustered.search(queries, 10).rows
    pairs = zip(expected, found, strict=True)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in pairs])
    assert 0.6 < recall < 1  # 3 of 71 leaves
    assert (found[:, 0] == expected[:, 0]).mean() > 0.9


def test_more_leaves_are_searched_until_there_are_enough_neighbors(clustered):
    queries = clustered.vectors(np.arange(20))
    expected = exact_neighbors(clustered.embeddings, queries, 4900)
    found = clustered.search(queries, 4900).rows
    # Single products differ in the last bits; the sets hardly do.
    assert (
        np.mean([len(set(a) ^ set(b)) for a, b in zip(expected, found, strict=True)])
        < 2
    )
    assert clustered.search(queries, 1500, names=names_of(20)).rows.min() >= 0


def test_leaves_of_another_index_are_refused(clustered, tmp_path):
    path = clustered.folder / "index.faiss"
    nearest.write_leaves(path, vectors(1200).astype(np.float16))
    with pytest.raises(
        ValueError, match="holds 1200 rows of 12 numbers instead of 5000"
    ):
        clustered.search(vectors(1), 3)
    path.unlink()
    with pytest.raises(ValueError, match="missing or damaged: build") as caught:
        open_index(clustered.folder).search(vectors(1), 3)
    assert "\n" not in str(caught.value)


def test_too_few_rows_and_another_width_are_named(tmp_path):
    index = make(tmp_path, vectors(5))
    names = ["00000.png"]
    assert index.search(unit(vectors(1)), 4, names=names).rows.shape == (1, 4)
    with pytest.raises(ValueError, match="has 5 rows, which do not leave 5 neighbours"):
        index.search(unit(vectors(1)), 5, names=names)
    with pytest.raises(ValueError, match=r"shape \(2, 3\) do not fit .* 12 numbers"):
        index.search(np.ones((2, 3), np.float32), 1)


def test_unreadable_pictures_leave_no_empty_rows(tmp_path):
    rows = vectors(5)
    index = write_index(tmp_path, [(rows, names_of(5))], META, max_count=9)
    assert index.embeddings.shape == (5, WIDTH) and len(index.names) == 5
    np.testing.assert_array_equal(index.embeddings, unit(rows).astype(np.float16))
    assert {file.name for file in tmp_path.iterdir()} == {
        "embeddings.npy",
        "names.json",
        "meta.json",
    }


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_embeddings_without_a_direction_are_refused(tmp_path, bad):
    rows = vectors(3)
    rows[1] = bad
    with pytest.raises(ValueError, match="zero or not finite"):
        write_index(tmp_path, [(rows, names_of(3))], META, max_count=3)
    with pytest.raises(ValueError, match="gave no embedding"):
        write_index(tmp_path, [], META, max_count=3)


def truncate(folder):
    path = folder / "embeddings.npy"
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_byte(folder):
    path = folder / "embeddings.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def drop_a_name(folder):
    path = folder / "names.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:-1]))


def forget_a_field(folder):
    path = folder / "meta.json"
    meta = json.loads(path.read_text())
    del meta["network"]
    path.write_text(json.dumps(meta))


def put_other_embeddings(folder):
    np.save(folder / "embeddings.npy", np.zeros((7, WIDTH), np.float16))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate, "is damaged"),
        (flip_a_byte, "another checksum"),
        (drop_a_name, "names.json has 19 names"),
        (forget_a_field, "is damaged .*network"),
        (put_other_embeddings, r"embeddings.npy is float16 \[7, 12\]"),
        (lambda folder: (folder / "names.json").unlink(), "is damaged"),
        (lambda folder: (folder / "meta.json").write_text("{"), "is damaged"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path, damage, says):
    make(tmp_path, vectors(20))
    damage(tmp_path)
    with pytest.raises(ValueError, match=says) as caught:
        open_index(tmp_path)
    assert "\n" not in str(caught.value) and "build it anew" in str(caught.value)


def test_a_folder_without_an_index_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no retrieval index"):
        open_index(tmp_path)


def test_without_faiss_an_error_says_how_to_get_it(tmp_path, monkeypatch):
    index = make(tmp_path, vectors(20))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match="pip install faiss-cpu"):
        index.search(vectors(1), 1)


@pytest.fixture
def table(tmp_path):
    """A table of three neighbours each for the 20 pictures of an index."""
    index = make(tmp_path / "index", vectors(20))
    path = tmp_path / "table.npy"
    queries = index.vectors(np.arange(20))
    write_neighbor_table(path, index, queries, index.names, 3)
    return index, path


def test_tables_are_the_same_every_time(table, tmp_path):
    index, path = table
    again = tmp_path / "again.npy"
    queries = index.vectors(np.arange(20))
    write_neighbor_table(again, open_index(index.folder), queries, index.names, 3)
    assert path.read_bytes() == again.read_bytes()
    assert open_neighbor_table(path, 20, 3)
    assert not open_neighbor_table(path, 20, 4)
    assert not open_neighbor_table(tmp_path / "none.npy", 20, 3)
    path.write_bytes(path.read_bytes()[:-4])
    assert not open_neighbor_table(path, 20, 3)


def test_examples_get_the_embeddings_of_their_neighbors(table):
    index, path = table
    look_up = LookUpNeighbors(index.folder / "embeddings.npy", path)
    rows = exact_neighbors(
        index.embeddings, index.embeddings, 3, [[row] for row in range(20)]
    )
    for number in (0, 7, 19):
        example = {"index": number, "name": "x"}
        result = look_up(example, np.random.default_rng(0))
        np.testing.assert_array_equal(result["neighbors"], index.vectors(rows[number]))
        assert result["neighbors"].dtype == np.float32 and result["name"] == "x"
    assert len(pickle.dumps(look_up)) < 500  # the arrays are opened anew


class Pictures:
    """Twenty named nothings."""

    spec = "pictures"
    class_names = ()

    def __len__(self):
        return 20

    def annotation(self, index):
        return {"name": f"{index:05d}.png"}

    def fingerprint(self):
        return "f"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_of_cached_latents_have_the_neighbors(table, tmp_path, num_workers):
    index, path = table
    cache = LatentCache(tmp_path, "k" * 16)
    stem = tmp_path / f"latents-{'k' * 16}"
    moments = np.arange(40, dtype=np.float32).reshape(20, 2, 1, 1, 1)
    np.save(f"{stem}.moments.npy", moments)
    np.save(f"{stem}.index.npy", np.arange(20, dtype=np.int32))
    look_up = LookUpNeighbors(index.folder / "embeddings.npy", path)
    loader = make_loader(
        LatentSource(cache, Pictures()),
        Chain((ChooseFlip(0.5), look_up)),
        batch_size=4,
        seed=0,
        num_workers=num_workers,
    )
    batch = next(loader)
    loader.close()
    rows = np.load(path)[batch["index"]]
    np.testing.assert_array_equal(batch["neighbors"], index.vectors(rows))
    assert batch["neighbors"].shape == (4, 3, WIDTH) and "moments" in batch
