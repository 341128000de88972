"""The full FFHQ config takes real steps on a folder of whatever people keep in one."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from configs import ffhq_f4
from configs.autoencoder import vq_f4
from configs.tiny import autoencoder
from ldm_jax import config as config_lib
from ldm_jax import run


@pytest.fixture
def odd_folder(tmp_path) -> Path:
    """Tiny, huge, grey, alpha, CMYK, 16-bit, corrupt, and a text file named .jpg."""
    folder = tmp_path / "odd"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (300, 280, 4), np.uint8)
    Image.fromarray(noise[:1, :1, :3]).save(folder / "tiny.png")
    Image.new("RGB", (5000, 3000), "teal").save(folder / "huge.jpg")
    Image.fromarray(noise[..., 0]).save(folder / "grey.png")
    Image.fromarray(noise).save(folder / "alpha.webp")
    Image.fromarray(noise).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    (folder / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "text.jpg").write_text("not a picture")
    return folder


def train(config, workdir: Path, folder: Path) -> list[dict]:
    config.data.source = f"folder:{folder}"
    config_lib.check(config)
    run.train(config, workdir, devices=jax.devices()[:1])
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_first_stage_trains_on_odd_pictures(odd_folder, tmp_path, caplog):
    config = autoencoder.get_config()
    config.train.num_steps = 2
    rows = train(config, tmp_path / "run", odd_folder)
    assert np.isfinite([row["loss"] for row in rows]).all()
    assert "text.jpg" in caplog.text and "corrupt.png" in caplog.text


@pytest.mark.slow
def test_ffhq_takes_two_real_steps_on_odd_pictures(odd_folder, tmp_path):
    first_stage = vq_f4.get_config()
    first_stage.loss.perceptual_weight = 0.0
    first_stage.train.update({"num_steps": 0, "batch_size": 1})
    first_stage.data.source = f"folder:{odd_folder}"
    run.train(first_stage, tmp_path / "vq_f4", devices=jax.devices()[:1])
    config = ffhq_f4.get_config()
    config.autoencoder.checkpoint = str(tmp_path / "vq_f4")
    config.train.update({"num_steps": 2, "batch_size": 1, "log_every": 1})
    config.train.update({"preview_every": 0, "evaluate_every": 0})
    rows = train(config, tmp_path / "ffhq", odd_folder)
    assert [row["step"] for row in rows] == [1, 2]
    # The zero-initialised head predicts 0, so the first loss is the noise's variance.
    assert rows[0]["loss"] == pytest.approx(1.0, abs=0.05)
    assert 0 < rows[1]["loss"] < 1.1
