import hashlib
import json
import pickle
import re
import zipfile
from collections import Counter

import numpy as np
import pytest

from ldm_jax.data.datasets import emoji64
from ldm_jax.data.sources import open_source

ASSETS = emoji64.ARCHIVE.parent


@pytest.fixture(scope="module")
def rows():
    with zipfile.ZipFile(emoji64.ARCHIVE) as archive:
        lines = archive.read("metadata.jsonl").decode().splitlines()
        return [json.loads(line) for line in lines]


def test_both_styles_are_whole_and_uncompressed(rows):
    assert Counter(row["style"] for row in rows) == {"3d": 1599, "flat": 1636}
    with zipfile.ZipFile(emoji64.ARCHIVE) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        assert archive.testzip() is None
    assert {entry.compress_type for entry in entries.values()} == {zipfile.ZIP_STORED}
    assert {entry.date_time[0] for entry in entries.values()} == {1980}
    assert set(entries) == {row["file_name"] for row in rows} | {"metadata.jsonl"}


def test_the_archive_is_the_one_the_readme_describes():
    digest = hashlib.sha256(emoji64.ARCHIVE.read_bytes()).hexdigest()
    assert digest in (ASSETS / "README.md").read_text()


def test_no_flags_and_no_skin_tones(rows):
    categories = {row["category"] for row in rows}
    assert len(categories) == 8 and not categories & {"Flags", "Component"}
    assert not [r for r in rows if re.search("1f3f[b-f]", r["code_points"])]


def test_no_emoji_is_on_both_sides_of_the_split(rows):
    sides = {split: set() for split in ("train", "val")}
    for row in rows:
        sides[row["split"]].add(row["code_points"])
    assert not sides["train"] & sides["val"]
    assert 0.04 < len(sides["val"]) / len(sides["train"] | sides["val"]) < 0.06


def test_splits_partition_the_set_and_share_their_classes():
    train, val, everything = (
        open_source("emoji64", split=split) for split in ("train", "val", "all")
    )
    assert (len(train), len(val), len(everything)) == (3065, 170, 3235)
    assert train.class_names == val.class_names == tuple(sorted(train.class_names))
    assert len(open_source("emoji64:val")) == 170
    assert len({source.fingerprint() for source in (train, val, everything)}) == 3


def test_a_picture_comes_with_caption_class_subcategory_and_style():
    source = open_source("emoji64", split="all")
    by_name = {source.annotation(i)["name"]: i for i in range(len(source))}
    apple = source[by_name["flat/1f34e.webp"]]
    assert apple["caption"] == "red apple, flat"
    assert source.class_names[apple["class_label"]] == "Food & Drink"
    assert (apple["subcategory"], apple["style"]) == ("food-fruit", "flat")
    assert source[by_name["3d/1f34e.webp"]]["caption"] == "red apple, 3d"


def test_pictures_are_drawings_on_white():
    source = open_source("emoji64", split="val")
    white = []
    for index in range(len(source)):
        pixels = source[index]["image"]
        assert pixels.shape == (64, 64, 3)
        edge = np.stack([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        white.append((edge.min(-1) > 240).mean())
        assert white[-1] > 0.5, index
        assert pixels.min() < 200, index
    assert np.mean(white) > 0.95 and not source.corrupt


def test_a_pickled_source_reads_the_same():
    source = open_source("emoji64")
    copy = pickle.loads(pickle.dumps(source))
    assert (copy[7]["image"] == source[7]["image"]).all()
    assert len(pickle.dumps(source)) < 1000


def test_licences_are_beside_the_pictures():
    fluent = (ASSETS / "LICENSE-fluent.txt").read_text()
    assert "Copyright (c) Microsoft Corporation" in fluent and "MIT" in fluent
    assert "Apache License" in (ASSETS / "LICENSE-noto.txt").read_text()
    assert "Cal Henderson" in (ASSETS / "LICENSE-emoji-data.txt").read_text()


def test_without_the_assets_the_error_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(emoji64, "ARCHIVE", tmp_path / "emoji64.zip")
    with pytest.raises(FileNotFoundError, match="git checkout"):
        open_source("emoji64")
    with pytest.raises(ValueError, match="no split 'test'"):
        open_source("emoji64:test")
