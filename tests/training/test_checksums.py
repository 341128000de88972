"""Every byte of a checkpoint is covered by its sums."""

import os
import random
import shutil
import subprocess

import pytest

from ldm_jax.training import checksums


@pytest.fixture
def folder(tmp_path):
    """Two items and a file beside them, with sums."""
    for name in ("params/d/a", "params/_METADATA", "ema/d/b", "top"):
        path = tmp_path / "12" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(name).randbytes(100))
    checksums.write_sums(tmp_path / "12")
    return tmp_path / "12"


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_an_intact_folder_has_no_damage(folder):
    assert checksums.has_sums(folder)
    assert checksums.find_damage(folder) == ()
    assert len(files(folder)) == 5


def test_a_flip_of_any_bit_of_any_file_is_found(folder):
    generator = random.Random(0)
    for path in files(folder):
        intact = path.read_bytes()
        for position in range(len(intact)):
            spoilt = bytearray(intact)
            spoilt[position] ^= 1 << generator.randrange(8)
            path.write_bytes(spoilt)
            (phrase,) = checksums.find_damage(folder)
            assert phrase.startswith(path.relative_to(folder).as_posix())
        path.write_bytes(intact)
    assert checksums.find_damage(folder) == ()


@pytest.mark.parametrize("spoil", ["truncated", "longer", "missing", "folder"])
def test_other_damage_is_found(folder, spoil):
    path = folder / "params/d/a"
    if spoil == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif spoil == "longer":
        path.write_bytes(path.read_bytes() + b"\0")
    elif spoil == "missing":
        path.unlink()
    else:
        shutil.rmtree(folder / "params")
    found = checksums.find_damage(folder)
    assert any(phrase.startswith("params/d/a is ") for phrase in found)
    assert len(found) == (2 if spoil == "folder" else 1)
    assert checksums.find_damage(folder, ("ema", "top")) == ()
    is_gone = spoil == "folder"
    assert len(checksums.find_damage(folder, ("params/_METADATA",))) == is_gone


def test_moving_a_folder_keeps_its_sums_valid(folder, tmp_path):
    moved = folder.rename(tmp_path / "elsewhere")
    assert checksums.find_damage(moved) == ()


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no program sha256sum")
def test_sha256sum_reads_the_sums(folder):
    command = ["sha256sum", "--check", "--strict", checksums.FILE_NAME]

    def check():
        return subprocess.run(
            command, check=False, cwd=folder, capture_output=True, text=True
        )

    assert check().returncode == 0
    (folder / "top").write_bytes(b"")
    spoilt = check()
    assert spoilt.returncode == 1 and "top: FAILED" in spoilt.stdout


def test_an_unreadable_file_is_damage_not_a_crash(folder, monkeypatch):
    def broken(path):
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(checksums, "_digest", broken)
    assert "top cannot be read: Input/output error" in checksums.find_damage(folder)
