"""What a stranger gets wrong ends in one clear sentence and exit code 2."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import jax
import pytest
from PIL import Image

from configs.tiny import autoencoder, ldm
from ldm_jax import config as config_lib
from ldm_jax import loading, pretrained, run
from ldm_jax.training import checkpoints

ROOT = Path(__file__).parents[1]
TINY = "--config=configs/tiny/autoencoder.py"


def cli(script: str, *arguments: str) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, script, *arguments],
        cwd=ROOT,
        check=False,
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result.returncode, result.stderr.strip()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--config is missing"),
        (("--config=configs/no_such.py",), "configs/no_such.py"),
        (
            ("--config=configs/ffhq_f4", "--dry_run"),
            "No such file or directory: 'configs/ffhq_f4'",
        ),
        ((TINY, "--config.train.batchsize=3"), "batchsize"),
        ((TINY, "--config.train.batch_size=many"), "many"),
        ((TINY, "--workdr=x"), "workdr"),
        ((TINY,), "--workdir is missing"),
        ((TINY, "--workdir=x", "--config.data.source=folder:/no/such"), "/no/such"),
    ],
)
def test_the_command_line_answers_in_one_sentence(arguments, says):
    code, errors = cli("train.py", *arguments)
    assert code == 2, errors
    assert says in errors
    assert "Traceback" not in errors
    assert len(errors.splitlines()) == 1


def test_help_explains_and_succeeds():
    result = subprocess.run(
        [sys.executable, "sample.py", "--help"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0
    assert "--guidance_scale" in result.stdout


def refused(config, workdir: Path, match: str) -> None:
    with pytest.raises((ValueError, OSError), match=match) as caught:
        config_lib.check(config)
        run.train(config, workdir, devices=jax.devices()[:1])
    assert "\n" not in str(caught.value)


def tiny(**train):
    config = autoencoder.get_config()
    config.train.update({"num_steps": 1, **train})
    return config


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("autoencoder.ch", 0, "config.autoencoder.ch is 0: it must be >= 1"),
        ("autoencoder.embed_dim", -1, "config.autoencoder.embed_dim is -1"),
        ("autoencoder.ch_mult", (1, 0), r"config.autoencoder.ch_mult is \(1, 0\)"),
        ("autoencoder.ch_mult", (), "config.autoencoder.ch_mult is empty"),
        ("adversarial.num_layers", 0, "config.adversarial.num_layers is 0"),
        ("adversarial.disc_start", -1, "disc_start is -1: it must be >= 0"),
        ("data.image_size", 0, "config.data.image_size is 0"),
    ],
)
def test_a_size_that_is_none_is_named(tmp_path, field, value, says):
    config = tiny()
    config.update_from_flattened_dict({field: value})
    refused(config, tmp_path, says)


def test_an_empty_source_is_named(tmp_path):
    config = tiny()
    config.data.source = ""
    refused(config, tmp_path, "config.data.source is empty")


def test_an_empty_folder_is_named(tmp_path):
    (tmp_path / "pictures").mkdir()
    config = tiny()
    config.data.source = f"folder:{tmp_path / 'pictures'}"
    refused(config, tmp_path / "run", "pictures")


def test_a_batch_that_does_not_divide_is_named(tmp_path):
    refused(tiny(batch_size=9, grad_accumulation=2), tmp_path, "batch_size=9")
    config = tiny(batch_size=9)
    config.mesh.data = 2
    with pytest.raises(ValueError, match="batch of 9"):
        run.train(config, tmp_path, devices=jax.devices()[:2])


def test_an_image_size_that_f_does_not_divide_is_named(tmp_path):
    config = tiny()
    config.data.image_size = 33
    refused(config, tmp_path, "image_size=33 is not divisible")


def test_a_missing_first_stage_is_named(tmp_path):
    config = ldm.get_config()
    refused(config, tmp_path, "config.autoencoder.checkpoint is empty")
    config.autoencoder.checkpoint = str(tmp_path / "nowhere")
    refused(config, tmp_path, "nowhere")


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
    refused(tiny(), tmp_path, "MiB free")


def test_wrong_counts_of_classes_are_named(tmp_path):
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "flat/a.png")
    config = ldm.get_config()
    config.data.source = f"folder:{tmp_path / 'flat'}"
    refused(config, tmp_path / "run", "num_classes")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("trained")
    run.train(tiny(), workdir, devices=jax.devices()[:1])
    return workdir


def test_a_first_stage_of_another_shape_is_named(trained, tmp_path):
    config = ldm.get_config()
    config.autoencoder.update({"checkpoint": str(trained), "embed_dim": 4})
    refused(config, tmp_path, "embed_dim")


def test_a_first_stage_that_differs_in_a_default_is_named(trained, tmp_path):
    config = ldm.get_config()
    del config.autoencoder.num_groups  # 32, with parameters of the same shapes
    config.autoencoder.checkpoint = str(trained)
    with pytest.raises(ValueError, match="num_groups=4.*num_groups=32"):
        pretrained.frozen(config)


def test_guidance_without_a_null_condition_is_named(tmp_path):
    config = ldm.get_config()
    config.conditioner.update({"has_null": False, "drop_rate": 0.0})
    refused(config, tmp_path, "guidance_scale=2.0")


def test_a_model_of_another_shape_does_not_resume(trained, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    config = tiny()
    config.autoencoder.ch = 16
    refused(config, workdir, "params/autoencoder")


def test_an_unreadable_checkpoint_is_named(trained, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    step = checkpoints.all_steps(workdir)[-1]
    shutil.rmtree(workdir / "checkpoints" / str(step) / "params")
    refused(tiny(), workdir, rf"damaged .{step}: params")


def test_sampling_a_first_stage_is_refused(trained):
    with pytest.raises(ValueError, match="first stage"):
        loading.load(trained)
    code, errors = cli("sample.py", f"--checkpoint={trained}")
    assert code == 2 and "first stage" in errors
