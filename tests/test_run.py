"""Both stages, trained through the same entry as train.py."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from configs.tiny import autoencoder, ldm
from ldm_jax import config as config_lib
from ldm_jax import loading, run, trees
from ldm_jax.training import checkpoints, sharding

ROOT = Path(__file__).parents[1]
TIMINGS = ("images_per_sec", "mfu")


def rows(workdir: Path) -> list[dict]:
    """metrics.jsonl without what depends on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in found]


def losses(workdir: Path) -> np.ndarray:
    return np.array([row["loss"] for row in rows(workdir)])


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory) -> Path:
    """A tiny KL autoencoder, hardly trained."""
    workdir = tmp_path_factory.mktemp("first_stage")
    config = autoencoder.get_config("kl")
    config.train.num_steps = 1
    run.train(config, workdir, devices=jax.devices()[:1])
    return workdir


def config_of(stage: str, first_stage: Path):
    if stage != "denoiser":
        return autoencoder.get_config(stage)
    config = ldm.get_config("kl")
    config.autoencoder.checkpoint = str(first_stage)
    return config


# A GAN's adaptive weight, a ratio of two small norms, amplifies what float32 sums in
# another order differ by; the discriminator takes part from the third step on.
@pytest.mark.parametrize(
    ("stage", "rtol", "layouts"),
    [
        ("denoiser", 2e-4, ("fsdp",)),
        pytest.param("denoiser", 2e-4, ("data",), marks=pytest.mark.slow),
        pytest.param("kl", 5e-3, ("data", "fsdp"), marks=pytest.mark.slow),
    ],
)
def test_eight_devices_give_the_losses_of_one(
    stage, rtol, layouts, first_stage, tmp_path, monkeypatch
):
    monkeypatch.setattr(sharding, "MIN_FSDP_ELEMENTS", 64)
    meshes = {"one": (1, 1, 1), "data": (8, 1, 8), "fsdp": (2, 4, 8)}
    found = {}
    for name in ("one", *layouts):
        data, fsdp, num_devices = meshes[name]
        config = config_of(stage, first_stage)
        config.mesh.update({"data": data, "fsdp": fsdp})
        config.train.num_steps = 4
        run.train(config, tmp_path / name, devices=jax.devices()[:num_devices])
        found[name] = losses(tmp_path / name)
    for name in layouts:
        np.testing.assert_allclose(found[name], found["one"], rtol=rtol)
        np.testing.assert_allclose(found[name][:2], found["one"][:2], rtol=1e-5)


def train_cli(stage: str, first_stage: Path, workdir: Path, num_steps: int):
    """`python train.py` on one device, as a user starts it."""
    name = "ldm" if stage == "denoiser" else f"autoencoder.py:{stage}"
    command = [sys.executable, "train.py", f"--workdir={workdir}"]
    command += [f"--config=configs/tiny/{name}" + (".py" if name == "ldm" else "")]
    command += [f"--config.train.num_steps={num_steps}"]
    if stage == "denoiser":
        command += [f"--config.autoencoder.checkpoint={first_stage}"]
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-2000:]


@pytest.mark.slow  # tests/faults/ kills a run in every `make test`
@pytest.mark.parametrize("stage", ["kl", "denoiser"])
def test_a_killed_run_goes_on_bit_for_bit(stage, first_stage, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = train_cli(stage, first_stage, killed, 10**6)
    deadline = time.monotonic() + 240
    while len(checkpoints.all_steps(killed)) < 2:
        assert process.poll() is None, process.stderr.read().decode()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    num_steps = checkpoints.all_steps(killed)[-1] + 3  # resumes between two saves
    finish(train_cli(stage, first_stage, killed, num_steps))
    finish(train_cli(stage, first_stage, whole, num_steps))
    assert rows(killed) == rows(whole)
    assert len(rows(whole)) == num_steps
    for item in ("params", "ema", "opt_state", "collections"):
        ours = trees.flatten(checkpoints.load_item(killed, item))
        theirs = trees.flatten(checkpoints.load_item(whole, item))
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.slow
def test_cached_latents_train_as_well_as_pictures(first_stage, tmp_path):
    config = config_of("denoiser", first_stage)
    config.latent.scale_by_std = False
    config.data.crop = "center"
    found = {}
    for is_cached in (False, True):
        config.latent.cache = is_cached
        workdir = tmp_path / str(is_cached)
        run.train(config, workdir, devices=jax.devices()[:1])
        found[is_cached] = losses(workdir)
    np.testing.assert_allclose(found[True], found[False], rtol=1e-4)


def test_a_trained_model_samples_encodes_and_decodes(first_stage, tmp_path):
    config = config_of("denoiser", first_stage)
    config.train.update({"num_steps": 1, "preview_every": 1, "evaluate_every": 1})
    run.train(config, tmp_path, devices=jax.devices()[:1])
    assert (tmp_path / "previews/step_1.png").is_file()
    assert {"val/loss", "val/loss_ema"} <= {k for row in rows(tmp_path) for k in row}
    model = loading.load(tmp_path)
    pixels = model.sample(5, steps=3, guidance_scale=2.0, seed=1, batch_size=2)
    assert pixels.shape == (5, 32, 32, 3) and pixels.dtype == np.uint8
    again = model.sample(5, steps=3, guidance_scale=2.0, seed=1, batch_size=2)
    np.testing.assert_array_equal(pixels, again)
    assert np.any(pixels != model.sample(5, steps=3, seed=2, batch_size=2))
    z = model.encode(pixels)
    assert z.shape == (5, 16, 16, 3)
    assert model.decode(z).shape == pixels.shape
    wide = model.sample(1, steps=2, height=32, width=64)
    assert wide.shape == (1, 32, 64, 3)


def test_the_latent_scale_is_measured_once_and_kept(first_stage, tmp_path):
    config = config_of("denoiser", first_stage)
    config.train.num_steps = 1
    run.train(config, tmp_path, devices=jax.devices()[:1])
    before = checkpoints.load_item(tmp_path, "collections")["latent_scale"]
    config.train.num_steps = 3
    run.train(config, tmp_path, devices=jax.devices()[:1])
    after = checkpoints.load_item(tmp_path, "collections")["latent_scale"]
    assert before == after != 1.0


def test_a_config_survives_its_json(tmp_path):
    config = ldm.get_config()
    config_lib.save(config, tmp_path / "config.json")
    again = config_lib.load(tmp_path / "config.json")
    assert again.to_dict() == json.loads(json.dumps(config.to_dict()))
