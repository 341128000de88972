"""What is no checkpoint, or a damaged or hostile one, is refused in one sentence."""

import gzip
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from archive_files import FORMATS, rewrite_zip, safetensors_bytes, save, tensors

from ldm_jax.interop.archive import open_checkpoint
from ldm_jax.safe_pickle import UnsafePickleError

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """What `os.system` was called with: nothing, by the end of every test."""
    seen = []
    monkeypatch.setattr(os, "system", seen.append)
    yield seen
    assert not seen


def assert_refused(path, match, kind=ValueError):
    with pytest.raises(kind, match=match) as error:
        open_checkpoint(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    assert len(message) < 400 + len(str(path))
    return message


OTHERS = {
    "empty": (b"", "is empty: the download failed"),
    "page": (b"\n <!DOCTYPE html><html>", "is an HTML page, .* the download failed"),
    "upper case": (b"<HTML><HEAD>", "is an HTML page"),
    "S3 error": (b'<?xml version="1.0"?><Error>', "is an HTML page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
    "JSON": (b'{"weight_map": {}}', "is a JSON file, not a checkpoint"),
    "gzip": (gzip.compress(b"x"), "unpack it"),
    "tar": (b"a" * 257 + b"ustar" + b"\0" * 200, "unpack it"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "of another framework"),
    "text": (b"hello world, this is some text", "not a readable torch file"),
    "zeros": (bytes(1000), "not a readable torch file"),
    "short": (b"\x80", "not a readable torch file"),
    "plain pickle": (pickle.dumps({"x": 1}), "not a readable torch file"),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("name", ["model.ckpt", "model.bin"])
def test_other_files_are_told_apart(tmp_path, what, name):
    content, message = OTHERS[what]
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, message)


def test_safetensors_by_name_only_is_named_as_such(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(1000))
    assert_refused(path, "not a readable safetensors file")


def test_nothing_there_is_an_error_of_its_own(tmp_path):
    assert_refused(tmp_path / "absent.ckpt", "no file or folder", FileNotFoundError)


@pytest.mark.parametrize("content", [{}, {"a": 1}, [1], None, {"state_dict": {"b": 1}}])
def test_a_file_without_tensors_is_refused(tmp_path, content):
    path = save(content, tmp_path / "f.ckpt", "torch zip")
    assert_refused(path, r"holds no tensors at its top level or under 'state_dict'")


# --- hostile pickles, wherever a pickle can stand ---


# Spelt out, because `os.system` is the fixture's own function here.
CALL = b"cposix\nsystem\nS'true'\n\x85R."
REFUSAL = "refused to load posix.system from"


@pytest.mark.parametrize("place", ["data.pkl", "whole file", "stream"])
def test_a_hostile_pickle_is_refused_by_the_name_of_its_global(tmp_path, place):
    path = tmp_path / "model.ckpt"
    if place == "data.pkl":
        save(tensors(), path, "torch zip")
        rewrite_zip(path, lambda records: records | {"data.pkl": CALL})
    elif place == "whole file":
        path.write_bytes(CALL)
    else:
        save({}, path, "torch legacy")
        path.write_bytes(path.read_bytes().replace(b"}q\x00.", CALL))
    assert CALL in path.read_bytes()
    assert_refused(path, REFUSAL, UnsafePickleError)


@pytest.mark.parametrize("pickle_at", range(5))
def test_each_of_the_streams_pickles_is_guarded(tmp_path, pickle_at):
    path = save({}, tmp_path / "model.ckpt", "torch legacy")
    data = path.read_bytes()
    ends = [0]
    for _ in range(5):
        with path.open("rb") as file:
            file.seek(ends[-1])
            pickle.load(file)
            ends.append(file.tell())
    path.write_bytes(data[: ends[pickle_at]] + CALL + data[ends[pickle_at + 1] :])
    assert_refused(path, REFUSAL, UnsafePickleError)


@pytest.mark.parametrize("name", [
    "builtins eval", "builtins getattr", "__builtin__ exec", "functools partial",
    "torch.storage _load_from_bytes", "torch.hub load", "omegaconf.x os.system",
    "numpy load", "runpy run_path", "torch.jit load", "codecs decode",
])  # fmt: skip
@pytest.mark.parametrize("nested", ["state_dict", "callbacks"])
def test_known_gadgets_are_refused(tmp_path, name, nested):
    path = save(tensors(), tmp_path / "f.ckpt", "torch zip")
    gadget = b"c" + name.replace(" ", "\n").encode() + b"\n"
    content = b"}S'" + nested.encode() + b"'\n}S'x'\n" + gadget + b"S'a'\n\x85Rss."
    rewrite_zip(path, lambda records: records | {"data.pkl": content})
    message = assert_refused(path, "refused to load", UnsafePickleError)
    assert name.replace(" ", ".") in message


# --- truncated files ---


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("kept", [0.001, 0.02, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused_when_it_is_opened(tmp_path, layout, kept):
    path = save(tensors(), tmp_path / "cut.ckpt", layout)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    kind = layout.split()[0]
    assert_refused(path, f"not a readable {kind} file .* it may be truncated, get it ")


def test_a_stream_cut_within_the_size_of_an_empty_storage_is_refused(tmp_path):
    path = save({"x": torch.zeros(0)}, tmp_path / "cut.ckpt", "torch legacy")
    path.write_bytes(path.read_bytes()[:-1])
    assert_refused(path, "storage '[0-9]+' is cut short")


# --- hostile zip archives ---


def zip_with(path, change):
    """A torch file whose zip entries pass through `change(archive)` before the index."""
    save({"x": torch.zeros(5000)}, path, "torch zip")
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        change(archive, records)
    return path


def write_all(archive, records, **compressed):
    for name, data in records.items():
        archive.writestr(name, data, **compressed)


def entry(archive, end):
    return next(info for info in archive.filelist if info.filename.endswith(end))


def test_an_archive_that_someone_rewrote_without_compression_is_read(tmp_path):
    path = zip_with(tmp_path / "f.ckpt", write_all)
    np.testing.assert_array_equal(open_checkpoint(path).tensors["x"], np.zeros(5000))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_compressed_entries_are_refused_unread(tmp_path, method):
    def change(archive, records):
        write_all(archive, records, compress_type=method)

    assert_refused(zip_with(tmp_path / "f.ckpt", change), "is compressed or encrypted")


def test_an_entry_that_inflates_beyond_its_header_is_refused(tmp_path):
    def change(archive, records):
        write_all(archive, records, compress_type=zipfile.ZIP_DEFLATED)
        entry(archive, "data/0").file_size = 10

    assert_refused(zip_with(tmp_path / "f.ckpt", change), "is compressed or encrypted")


def test_a_pickle_with_a_wrong_checksum_is_refused_before_it_is_read(tmp_path):
    path = save({"x": torch.zeros(5000)}, tmp_path / "f.ckpt", "torch zip")
    path.write_bytes(
        path.read_bytes().replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v1")
    )
    assert_refused(path, "its pickle has a wrong checksum")


def test_a_stored_entry_of_two_sizes_is_refused(tmp_path):
    def change(archive, records):
        write_all(archive, records)
        entry(archive, "data/0").compress_size += 4

    assert_refused(zip_with(tmp_path / "f.ckpt", change), "has two sizes")


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    def change(archive, records):
        write_all(archive, records | {"f/data/1": b"x" * 20_000})
        entry(archive, "data/1").header_offset = entry(archive, "data/0").header_offset

    assert_refused(zip_with(tmp_path / "f.ckpt", change), "is not where the index says")


def test_an_entry_that_reaches_past_the_end_is_refused(tmp_path):
    def change(archive, records):
        write_all(archive, records)
        for info in archive.filelist[-1:]:
            info.file_size = info.compress_size = 1 << 31

    assert_refused(zip_with(tmp_path / "f.ckpt", change), "reaches past its end")


def test_an_encrypted_entry_is_refused(tmp_path):
    def change(archive, records):
        write_all(archive, records)
        entry(archive, "data.pkl").flag_bits |= 1

    assert_refused(zip_with(tmp_path / "f.ckpt", change), "is compressed or encrypted")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(tmp_path):
    def change(archive, records):
        write_all(archive, records)
        archive.writestr("f/data/0", b"x" * 20_000)

    assert_refused(zip_with(tmp_path / "f.ckpt", change), "stands there twice")


def test_a_storage_smaller_than_the_pickle_says_is_refused(tmp_path):
    path = save({"x": torch.zeros(5000)}, tmp_path / "f.ckpt", "torch zip")
    rewrite_zip(path, lambda records: records | {"data/0": b"\0" * 400})
    assert_refused(path, "storage '0' should have 20000 bytes and has 400")


def test_a_storage_that_declares_terabytes_is_refused_without_allocating(tmp_path):
    size, huge = b"M\x88\x13", b"\x8a\x06" + (2**40).to_bytes(6, "little")  # 5000
    path = save({"x": torch.zeros(5000)}, tmp_path / "f.ckpt", "torch zip")

    def change(records):
        return records | {"data.pkl": records["data.pkl"].replace(size, huge)}

    assert_refused(rewrite_zip(path, change), "should have 4398046511104 bytes")
    path = save({"x": torch.zeros(5000)}, tmp_path / "g.ckpt", "torch legacy")
    path.write_bytes(path.read_bytes().replace(size, huge))
    assert_refused(path, "storage '[0-9]+' is cut short")


def test_a_missing_storage_is_named(tmp_path):
    path = save({"x": torch.zeros(5000)}, tmp_path / "f.ckpt", "torch zip")
    rewrite_zip(path, lambda records: records.pop("data/0") and records)
    assert_refused(path, "storage '0' is missing")


def test_other_zip_archives_are_told_apart(tmp_path):
    path = tmp_path / "kl-f8.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.ckpt", b"x")
    assert_refused(path, "a zip archive that torch.save did not write: .* unpack it")
    path = save(tensors(), tmp_path / "script.pt", "torch zip")
    rewrite_zip(path, lambda records: records | {"constants.pkl": b"."})
    assert_refused(path, "is a TorchScript program: save its state_dict")


@pytest.mark.parametrize("layout", FORMATS[:2])
def test_big_endian_files_are_refused(tmp_path, layout):
    path = save(tensors(), tmp_path / "f.ckpt", layout)
    if layout == "torch zip":
        rewrite_zip(path, lambda records: records | {"byteorder": b"big"})
    else:
        data = path.read_bytes()
        at = data.index(b"little_endian") + len(b"little_endian")
        at = data.index(b"\x88", at)  # NEWTRUE
        path.write_bytes(data[:at] + b"\x89" + data[at + 1 :])
    assert_refused(path, "its byte order is big-endian")


@pytest.mark.filterwarnings("ignore:torch.quantize")
def test_unknown_types_of_tensors_are_named(tmp_path):
    quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    path = save({"x": quantised}, tmp_path / "f.ckpt", "torch zip")
    assert_refused(path, "refused to load torch._utils._rebuild_qtensor")


# --- hostile safetensors ---

GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS = {
    "data missing": ({"a": GOOD}, 7),
    "data left over": ({"a": GOOD}, 9),
    "overlap": ({"a": GOOD, "b": GOOD}, 8),
    "partial overlap": ({"a": GOOD, "b": {**GOOD, "data_offsets": [4, 12]}}, 12),
    "gap": ({"a": GOOD, "b": {**GOOD, "data_offsets": [12, 20]}}, 20),
    "past the end": ({"a": {**GOOD, "data_offsets": [0, 2**62]}}, 8),
    "backwards": ({"a": {**GOOD, "data_offsets": [8, 0]}}, 8),
    "shape too large": ({"a": {**GOOD, "shape": [3]}}, 8),
    "shape overflows": ({"a": {**GOOD, "shape": [2**62, 2**62]}}, 8),
    "negative shape": ({"a": {**GOOD, "shape": [-2, -1]}}, 8),
    "unknown type": ({"a": {**GOOD, "dtype": "X9"}}, 8),
    "type without numpy's": ({"a": {**GOOD, "dtype": "F4", "shape": [16]}}, 8),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, 8),
    "not a dict": ([1], 0),
    "not JSON": (b'{"a":', 8),
    "deep": (b'{"a":' * 10_000, 8),
    "metadata that is no text": ({"__metadata__": {"a": [1]}, "b": GOOD}, 8),
}


@pytest.mark.parametrize("way", HEADERS)
def test_headers_that_make_no_sense_are_refused(tmp_path, way):
    header, size = HEADERS[way]
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(header, bytes(size)))
    assert_refused(path, "is not a readable safetensors file")


@pytest.mark.parametrize("length", [0, 3, 2**31, 2**62, 2**64 - 1])
def test_a_header_of_impossible_length_is_refused(tmp_path, length):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"a":1}' + bytes(100))
    assert_refused(path, "is not a readable safetensors file")


def test_float8_is_read(tmp_path):
    values = torch.tensor([0.5, -448.0]).to(torch.float8_e4m3fn)
    path = save({"x": values}, tmp_path / "f.safetensors", "safetensors")
    loaded = open_checkpoint(path).tensors["x"].astype(np.float32)
    np.testing.assert_array_equal(loaded, [0.5, -448.0])
