"""A wheel installed outside the repository finds its commands, configs and assets."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_jax import shipped

ROOT = Path(__file__).parents[1]
# What a fresh clone does not hold.
NOT_CLONED = shutil.ignore_patterns(
    ".venv*", ".git", "runs", "build", "dist", "samples", "site", "*.egg-info",
    "__pycache__", ".*_cache", ".hypothesis", "tests", "notebooks",
)  # fmt: skip
COMMANDS = ("train", "sample", "evaluate", "convert", "app", "doctor")


def test_configs_and_assets_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = shipped.config_path("configs/emoji_f4.py")
    assert Path(found).is_file() and Path(found).is_relative_to(shipped.root())
    with_argument = shipped.config_path("configs/semantic_landscapes_f4.py:512")
    assert with_argument.endswith("configs/semantic_landscapes_f4.py:512")
    assert with_argument.startswith(str(shipped.root()))
    assert shipped.config_path("configs/no_such.py") == "configs/no_such.py"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/emoji_f4.py").write_text("")
    assert shipped.config_path("configs/emoji_f4.py") == "configs/emoji_f4.py"
    assert shipped.asset("emoji64/emoji64.zip").is_file()


def test_only_the_config_flag_of_a_command_line_is_touched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = shipped.root()
    line = [
        "train.py",
        "--config=configs/sd_v1.py",
        "--config.train.batch_size=2",
        "--x",
    ]
    assert shipped.with_config_paths(line) == [
        "train.py", f"--config={root}/configs/sd_v1.py", *line[2:],
    ]  # fmt: skip
    apart = ["train.py", "--config", "configs/sd_v1.py"]
    assert shipped.with_config_paths(apart)[2] == f"{root}/configs/sd_v1.py"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, as `pip wheel .` does."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "clone", ignore=NOT_CLONED)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"]
    options = ["--no-build-isolation", "-w", folder, folder / "clone"]
    subprocess.run([*pip, *options], check=True)
    (file,) = folder.glob("ldm_jax-0.1.0-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """`installed("train", "--help")`: a console script, run in an empty folder."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv/bin/python"
    command = [sys.executable, "-m", "pip", f"--python={python}", "install", "-q"]
    subprocess.run([*command, "--no-deps", "--no-index", wheel], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    place = folder / "venv/lib" / version / "site-packages/dependencies.pth"
    place.write_text(sysconfig.get_paths()["purelib"])
    (folder / "elsewhere").mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(name, *arguments):
        done = subprocess.run(
            [folder / f"venv/bin/ldm-{name}", *arguments],
            cwd=folder / "elsewhere", env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    run.folder = folder / "elsewhere"
    return run


@pytest.mark.slow
def test_the_wheel_holds_what_a_checkout_has_beside_the_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = "ldm_jax/checkout"
    for name in ("train.py", "app.py", "configs/parts/training.py", "configs/sd_v1.py",
                 "assets/emoji64/emoji64.zip", "constraints.txt"):  # fmt: skip
        assert f"{inside}/{name}" in names
    assert "ldm_jax/data/vocabularies/bert/vocab.txt" in names
    strange = {name.split("/")[0] for name in names} - {"ldm_jax"}
    assert strange == {"ldm_jax-0.1.0.dist-info"}  # nothing else on the import path
    assert not any("__pycache__" in name or "tests/" in name for name in names)


@pytest.mark.slow
def test_every_command_of_the_wheel_explains_itself(installed):
    for name in COMMANDS:
        code, out, err = installed(name, "--help")
        assert code == 0 and "--" in out, f"ldm-{name}: {err}"


@pytest.mark.slow
def test_the_wheel_finds_configs_and_says_in_a_sentence_what_is_wrong(installed):
    code, out, err = installed("train", "--config=configs/tiny/ldm.py", "--dry_run")
    assert code == 0 and "FLOPs of a step" in out, err
    code, _, err = installed("train", "--config=configs/no_such.py", "--dry_run")
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    code, out, err = installed("doctor", "--seconds=0.2")
    assert code == 0 and "3,065 pictures" in out, err
    assert "ldm_jax/checkout" in out and "could not go on" not in out


@pytest.mark.slow
def test_the_wheel_draws_with_the_demo_model(installed):
    if not shipped.asset("emoji_text/config.json").is_file():
        pytest.skip("no demo model beside this checkout")
    prompt = "--prompt=a red apple, 3d"
    code, out, err = installed("sample", prompt, "--steps=4", "--outdir=out")
    assert code == 0 and "1 pictures in out" in out, err
    pixels = np.asarray(Image.open(installed.folder / "out/00000.png"))
    assert pixels.shape == (64, 64, 3) and pixels.std() > 3
