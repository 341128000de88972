import json
import os
import pickle

import numpy as np
import pytest
from odd_images import CORRUPT, READABLE, encode, solid

from ldm_jax.data.sources import open_source

PICTURE = encode(solid("RGB", (4, 4), "red"), "PNG")


def write(root, files):
    """Files by relative path: bytes, or text."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return f"folder:{root}"


def names(source):
    return [source.annotation(index)["name"] for index in range(len(source))]


def test_a_folder_of_odd_pictures_is_read_whole(tmp_path, caplog):
    files = {name: encoded for name, (encoded, _, _) in READABLE.items()}
    spec = write(tmp_path, files | CORRUPT)
    source = open_source(spec)
    assert len(source) == len(READABLE) + len(CORRUPT)
    order = names(source)
    for _ in range(2):
        examples = [source[index] for index in range(len(source))]
    for asked, example in enumerate(examples):
        if order[asked] in READABLE:
            assert example["name"] == order[asked] and example["index"] == asked
            assert example["image"].shape[:2] == READABLE[order[asked]][2]
        else:  # the next readable one, at the end the first
            later = order[asked:] + order
            assert example["name"] == next(n for n in later if n in READABLE)
            assert order[example["index"]] == example["name"]
    assert set(source.corrupt) == set(CORRUPT)
    reported = [record.getMessage() for record in caplog.records]
    for name in CORRUPT:
        assert sum(name in line for line in reported) == 1


def test_a_folder_of_mostly_corrupt_pictures_is_an_error_with_examples(tmp_path):
    spec = write(
        tmp_path, {f"{i}.jpg": b"text" for i in range(3)} | {"ok.png": PICTURE}
    )
    with pytest.raises(ValueError, match=r"too many unreadable.*0\.jpg"):
        open_source(spec)[0]


def test_order_is_by_path_and_hidden_files_are_ignored(tmp_path):
    shown = ["a/z.png", "b/c/d.PNG", "b/x.Webp", "top.jpg"]
    hidden = [".hidden.png", "a/._z.png", ".cache/y.png", "a/notes.md"]
    spec = write(tmp_path, dict.fromkeys(shown[::-1] + hidden, PICTURE))
    assert names(open_source(spec)) == shown


def test_links_are_followed_once(tmp_path):
    write(tmp_path / "elsewhere", {"x.png": PICTURE})
    write(tmp_path / "root", {"a/y.png": PICTURE})
    os.symlink(tmp_path / "elsewhere", tmp_path / "root/linked")
    os.symlink(tmp_path / "root", tmp_path / "root/a/loop")
    os.symlink(tmp_path / "gone.png", tmp_path / "root/a/dangling.png")
    source = open_source(f"folder:{tmp_path / 'root'}")
    assert names(source) == ["a/dangling.png", "a/y.png", "linked/x.png"]
    assert source[0]["name"] == "a/y.png" and list(source.corrupt)


def test_first_level_subfolders_are_the_classes(tmp_path):
    spec = write(tmp_path, dict.fromkeys(["dog/1.png", "cat/a/b/2.png"], PICTURE))
    source = open_source(spec)
    assert source.class_names == ("cat", "dog")
    assert [source[i]["class_label"] for i in range(2)] == [0, 1]


def test_a_picture_outside_the_subfolders_means_no_classes(tmp_path):
    spec = write(tmp_path, dict.fromkeys(["dog/1.png", "2.png"], PICTURE))
    source = open_source(spec)
    assert source.class_names == () and "class_label" not in source[0]


def test_train_and_val_subfolders_are_splits_with_the_same_classes(tmp_path, caplog):
    files = ["train/cat/1.png", "train/dog/2.png", "val/dog/3.png", "test/cat/4.png"]
    spec = write(tmp_path, dict.fromkeys(files, PICTURE))
    assert names(open_source(spec)) == files[:2]
    val = open_source(spec, split="val")
    assert names(val) == files[2:3] and val[0]["class_label"] == 1
    assert val.class_names == ("cat", "dog")
    assert names(open_source(spec, split="all")) == files[:3]
    assert not caplog.records


def test_a_folder_without_splits_says_that_val_is_train(tmp_path, caplog):
    spec = write(tmp_path, {"1.png": PICTURE})
    assert len(open_source(spec, split="val")) == 1
    assert "training pictures" in caplog.text


def test_captions_come_from_text_files_and_jsonl(tmp_path, caplog):
    rows = [{"file_name": "b.png", "text": "bee"}, {"file_name": "a.png", "text": "x"}]
    lines = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    files = dict.fromkeys(["a.png", "b.png", "deep/c.png", "d.png"], PICTURE)
    files |= {"a.txt": " an\n apple \n", "metadata.jsonl": lines}
    files["deep/captions.jsonl"] = (
        '{"file_name": "c.png", "caption": "sea"}\n'
        '{"file_name": "lost.png", "caption": "?"}'
    )
    source = open_source(write(tmp_path, files))
    captions = [source[index]["caption"] for index in range(4)]
    assert captions == ["an apple", "bee", "", "sea"]
    assert "deep/lost.png" in caplog.text


def test_a_malformed_caption_line_is_named(tmp_path):
    files = {"a.png": PICTURE, "captions.jsonl": '{"file_name": "a.png"}\n[1]'}
    with pytest.raises(ValueError, match=r"captions.jsonl, line 2"):
        open_source(write(tmp_path, files))


def test_the_fingerprint_changes_with_the_pictures_only(tmp_path):
    spec = write(tmp_path, {"a.png": PICTURE, "b.png": PICTURE})
    before = open_source(spec).fingerprint()
    write(tmp_path, {"notes.md": "x"})
    assert open_source(spec).fingerprint() == before
    write(tmp_path, {"b.png": READABLE["tiny.png"][0]})
    changed = open_source(spec).fingerprint()
    (tmp_path / "a.png").rename(tmp_path / "c.png")
    assert len({before, changed, open_source(spec).fingerprint()}) == 3


def test_a_pickled_folder_source_reads_the_same(tmp_path):
    source = open_source(write(tmp_path, {"a/1.png": PICTURE}))
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[0]["image"], source[0]["image"])


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("folder:", FileNotFoundError, "give folder:PATH"),
        ("folder:/does/not/exist", FileNotFoundError, "/does/not/exist"),
        ("array_record:/does/not/*.exist", FileNotFoundError, "no file matches"),
        ("imagenet", ValueError, "folder:PATH, tfds:NAME"),
        ("", ValueError, "data.source"),
    ],
)
def test_a_spec_that_names_nothing_says_what_to_give(spec, error, message):
    with pytest.raises(error, match=message) as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(
        ValueError, match=r"no pictures: looked for .jpeg .jpg .png .webp"
    ):
        open_source(write(tmp_path, {"a.gif": b"GIF89a"}))
    with pytest.raises(ValueError, match="no split 'dev'"):
        open_source(f"folder:{tmp_path}", split="dev")


def test_an_index_outside_the_source_is_an_index_error(tmp_path):
    source = open_source(write(tmp_path, {"a.png": PICTURE}))
    for index in (-1, 1):
        with pytest.raises(IndexError):
            source[index]
