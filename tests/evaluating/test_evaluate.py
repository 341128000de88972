"""evaluate.py: its four forms, what they write, and how mistakes end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.tiny import autoencoder
from ldm_jax import build
from ldm_jax import config as config_lib
from ldm_jax.arrays import pixels_to_image
from ldm_jax.evaluating import command
from ldm_jax.evaluating.first_stage import FirstStage, evaluate_first_stage
from ldm_jax.evaluating.picture_sets import from_npz
from ldm_jax.evaluation.image_quality import psnr, ssim
from ldm_jax.training import checkpoints
from ldm_jax.training.state import TrainState
from tests.evaluating.test_drawing import class_model
from tests.evaluation.tiny_network import tiny_network
from tests.tiny_latent_diffusion import TinyAutoencoder

ROOT = Path(__file__).parents[2]
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3)).astype(np.uint8)
NOTHING = {
    "checkpoint": None, "samples": None, "autoencoder": None, "make_reference": None,
    "reference": None, "source": None, "network": None, "network_path": None,
    "num_samples": None, "num_reference": None, "split": None, "image_size": None,
    "resize": None, "keep_features": False, "batch_size": 16, "seed": 0,
    "checkpoint_step": None, "no_ema": False, "number_format": "round",
    "metrics": None, "sampling": {}, "prompts": None, "clip": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
    monkeypatch.setattr(command, "find_network", lambda name, path: tiny_network(name))


def evaluated(tmp_path, **options):
    """What the command printed, and its metrics.json if it writes one."""
    output = tmp_path / "metrics.json"
    (form,) = command.COMMANDS.keys() & options.keys()
    text = command.COMMANDS[form]({**NOTHING, "output": output, **options})
    return text, json.loads(output.read_text()) if output.is_file() else None


def save_npz(path, pixels=PIXELS):
    np.savez(path, pixels)
    return str(path)


def test_samples_against_a_reference_of_this_program(tmp_path):
    stats = str(tmp_path / "stats.npz")
    text, report = evaluated(
        tmp_path, make_reference=stats, source="emoji64:val", image_size=16,
        network="efficientnet_lite0", keep_features=True, num_reference=50,
    )  # fmt: skip
    assert "efficientnet_lite0 statistics of 50 pictures" in text and report is None
    samples = save_npz(tmp_path / "samples.npz")
    text, report = evaluated(tmp_path, samples=samples, reference=stats)
    names = ("fd", "kd", "kd", "precision", "recall")
    expected = {f"{name}_efficientnet_lite0" for name in names}
    assert expected <= report["metrics"].keys()  # the reference's own network
    assert "fid" not in report["metrics"]
    assert not report["comparable"]
    assert "not comparable with the paper's tables because" in text
    assert "40 samples are too few" in text
    protocol = report["protocol"]
    assert protocol["samples"]["count"] == 40
    assert len(protocol["samples"]["pixels_sha256"]) == 64
    assert protocol["reference"]["source_count"] == 170
    assert protocol["reference"]["network"]["weights_sha256"] == "0" * 64
    assert protocol["settings"]["kid"]["subset_size"] == 40


def test_samples_equal_to_the_reference_have_no_distance(tmp_path):
    source = "emoji64:val"
    _, report = evaluated(
        tmp_path, samples=source, reference=source, image_size=16, metrics=["fid"]
    )
    assert report["metrics"]["fd_inception_custom"] < 1e-4


def test_a_folder_is_compared_with_a_folder(tmp_path):
    for name, pixels in (("real", PIXELS), ("fake", 255 - PIXELS)):
        (tmp_path / name).mkdir()
        for index, picture in enumerate(pixels):
            Image.fromarray(picture).save(tmp_path / name / f"{index}.png")
    folders = {"samples": str(tmp_path / "fake"), "reference": str(tmp_path / "real")}
    text, report = evaluated(tmp_path, **folders)
    assert report["metrics"]["fd_inception_custom"] > 0
    assert report["protocol"]["reference"]["image_size"] == [16, 16]
    assert "precision_inception_custom" in text and "[" in text


def test_a_model_is_drawn_from(tmp_path, monkeypatch):
    monkeypatch.setattr(command.loading, "load", lambda *_, **__: class_model())
    reference = save_npz(tmp_path / "real.npz", PIXELS[:, :8, :8])
    _, report = evaluated(
        tmp_path, checkpoint="runs/x", reference=reference, num_samples=20,
        metrics=["fid"], sampling={"steps": 2}, number_format="truncate",
    )  # fmt: skip
    samples = report["protocol"]["samples"]
    assert samples["count"] == 20 and samples["sampling"]["steps"] == 2
    assert samples["checkpoint"] == "runs/x" and samples["ema"]
    assert not any("truncate" in why for why in report["not_comparable_because"])


@pytest.fixture(scope="module")
def vq_workdir(tmp_path_factory):
    """A VQ first stage that was never trained."""
    workdir = tmp_path_factory.mktemp("vq")
    config = autoencoder.get_config("vq")
    module = build.autoencoder(config)
    config.data.image_size = 16
    image = jnp.zeros((1, 16, 16, 3))
    key = jax.random.key(0)
    shapes = jax.eval_shape(module.init, key, image, key)["params"]
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: random.normal(0, 0.1, x.shape).astype(np.float32), shapes
    )
    state = TrainState(jnp.int32(7), {"autoencoder": params}, None, {}, {})
    config_lib.save(config, workdir / "config.json")
    with checkpoints.open_checkpoints(workdir) as manager:
        checkpoints.save(manager, state)
        checkpoints.wait(manager)
    return workdir


def test_a_first_stage_is_measured_by_its_reconstructions(vq_workdir, tmp_path):
    metrics = ["rfid", "psnr", "ssim", "codebook"]
    _, report = evaluated(
        tmp_path, autoencoder=str(vq_workdir), source="emoji64", metrics=metrics
    )
    found = report["metrics"]
    assert 0 < found["psnr"] < 60 and 0 < found["ssim"] < 1
    assert found["rfd_inception_custom"] > 0
    assert 0 < found["codebook_share"] <= 1
    assert 1 <= found["codebook_perplexity"] <= 32
    assert report["protocol"]["samples"]["count"] == 170
    assert report["protocol"]["samples"]["split"] == "val"
    assert report["protocol"]["autoencoder"]["checkpoint_step"] == 7


def test_reconstructions_of_all_batches_are_averaged(tmp_path):
    module = TinyAutoencoder()
    image = np.asarray(pixels_to_image(PIXELS))
    key = jax.random.key(0)
    params = module.init(key, image[:1], key)["params"]
    first_stage = FirstStage(autoencoder.get_config(), module, params, 3)
    save_npz(tmp_path / "pictures.npz")
    report = evaluate_first_stage(
        first_stage,
        from_npz(tmp_path / "pictures.npz"),
        network=tiny_network("efficientnet_lite0"),
        metrics=("rfid", "psnr", "ssim"),
        batch_size=16,  # 40 pictures: the last batch is half empty
    )
    made = build.reconstruct(module, params, image)
    for name, metric in (("psnr", psnr), ("ssim", ssim)):
        expected = np.asarray(metric(made, image))
        assert report.result.values[name] == pytest.approx(expected.mean(), rel=1e-4)
        assert report.result.values[f"{name}_std"] == pytest.approx(
            expected.std(), rel=1e-2
        )
    assert report.result.values["rfd_efficientnet_lite0"] > 0
    assert report.speed > 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"samples": "x"}, "--samples needs --reference"),
        ({"autoencoder": "x"}, "--autoencoder needs --source"),
        ({"make_reference": "x.npz", "source": "emoji64"}, "needs --image_size"),
        (
            {"samples": "x", "reference": "missing"},
            "--reference=missing is no reference",
        ),
        ({"samples": "x", "reference": "missing.npz"}, "no reference at missing.npz"),
        ({"samples": "missing", "reference": "emoji64"}, "missing is no folder"),
        ({"samples": "x", "reference": "emoji64", "metrics": ["fidd"]}, "'fidd'"),
        ({"samples": "emoji64", "reference": "emoji64"}, "give --image_size"),
        ({"checkpoint": "missing", "reference": "emoji64"}, "missing/config.json"),
        (
            {"autoencoder": "x", "source": "emoji64", "metrics": ["fid"]},
            "choose of rfid, ris, psnr",
        ),
    ],
)
def test_mistakes_end_in_one_sentence(options, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=says) as caught:
        evaluated(tmp_path, **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_reference_of_other_features_is_refused(tmp_path):
    stats = str(tmp_path / "stats.npz")
    source = {"source": "emoji64:val", "image_size": 16, "num_reference": 20}
    evaluated(tmp_path, make_reference=stats, network="efficientnet_lite0", **source)
    samples = save_npz(tmp_path / "samples.npz")
    with pytest.raises(ValueError, match="made of efficientnet_lite0 features"):
        evaluated(tmp_path, samples=samples, reference=stats, network="inception")
    with pytest.raises(ValueError, match="--keep_features"):
        evaluated(tmp_path, samples=samples, reference=stats, metrics=["kid"])
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(ValueError, match="2048 features and inception has 8"):
        evaluated(tmp_path, samples=samples, reference=str(tmp_path / "theirs.npz"))


def cli(*arguments):
    result = subprocess.run(
        [sys.executable, "evaluate.py", *arguments],
        cwd=ROOT,
        check=False,
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result.returncode, result.stdout, result.stderr.strip()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give one of --checkpoint, --samples"),
        (("--samples=a", "--checkpoint=b"), "there is --checkpoint and --samples"),
        (("--samples=a", "--steps=3"), "--steps is for drawing"),
        (("--samples=a", "--network=vgg"), "inception|efficientnet_lite0|clip"),
        (("--sample=a",), "sample"),
    ],
)
def test_the_command_line_answers_in_one_sentence(arguments, says):
    code, _, errors = cli(*arguments)
    assert code == 2 and "Traceback" not in errors
    assert says in errors and len(errors.splitlines()) == 1, errors


def test_help_explains():
    code, text, _ = cli("--help")
    assert code == 0 and "--make_reference" in text and "keep_features" in text
