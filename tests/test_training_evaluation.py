"""Feature metrics, best checkpoints, curves and health while a model trains."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import ldm_jax
from configs.tiny import autoencoder, ldm
from ldm_jax import config as config_lib
from ldm_jax import run, training_evaluation
from tests.evaluation.tiny_network import tiny_network


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
    monkeypatch.setattr(
        training_evaluation, "find_network", lambda name, path: tiny_network(name)
    )


def rows(workdir: Path) -> list[dict]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def measured(config, *metrics):
    config.data.num_validation = 8
    config.evaluation.update(
        {
            "every": 1,
            "metrics": metrics,
            "network": "efficientnet_lite0",
            "num_samples": 20,
            "num_reference": 30,
        }
    )
    config.train.update({"num_steps": 2, "evaluate_every": 2})
    return config


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "first_stage"
    config = measured(autoencoder.get_config(), "rfid")
    config.adversarial.name = "none"  # compiles in a fraction of the time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            training_evaluation, "find_network", lambda name, path: tiny_network(name)
        )
        run.train(config, workdir, devices=jax.devices()[:1])
    return workdir


def test_a_first_stage_logs_its_rfd_and_keeps_the_best(first_stage):
    name = "val/rfd_efficientnet_lite0"
    values = {row["step"]: row[name] for row in rows(first_stage) if name in row}
    assert set(values) == {1, 2} and all(v > 0 for v in values.values())
    best = json.loads((first_stage / "best/best.json").read_text())
    assert best["value"] == min(values.values())
    assert values[best["step"]] == best["value"]
    kept = [p.name for p in (first_stage / "best/checkpoints").iterdir()]
    assert kept == [str(best["step"])]


def test_the_curves_are_a_picture(first_stage):
    with Image.open(first_stage / "curves.png") as image:
        assert image.size == (1080, 440)


def test_a_denoiser_is_measured_and_its_best_can_be_sampled(first_stage, tmp_path):
    config = measured(ldm.get_config(), "fid", "kid", "prec_recall")
    config.autoencoder.checkpoint = str(first_stage)
    config.evaluation.every = 2
    config.train.evaluate_every = 0
    config.sampler.update({"num_steps": 2, "guidance_scale": 1.0})
    run.train(config, tmp_path, devices=jax.devices()[:1])
    last = [row for row in rows(tmp_path) if "val/fd_efficientnet_lite0" in row][-1]
    assert last["step"] == 2
    names = ("fd", "kd", "precision", "recall")
    assert all(np.isfinite(last[f"val/{n}_efficientnet_lite0"]) for n in names)
    best, whole = (ldm_jax.load(folder) for folder in (tmp_path / "best", tmp_path))
    assert best.step == 2
    assert best.class_names == whole.class_names
    jax.tree.map(np.testing.assert_array_equal, best.params, whole.params)


def test_wrong_metrics_and_missing_weights_stop_a_run_before_it_starts(
    tmp_path, monkeypatch
):
    config = measured(autoencoder.get_config(), "fid")
    with pytest.raises(ValueError, match="no metric 'fid': choose of rfid, ris"):
        run.train(config, tmp_path / "run", devices=jax.devices()[:1])
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="metrics is empty"):
        training_evaluation.check(measured(autoencoder.get_config()))

    def missing(name, path):
        raise FileNotFoundError(f"no weights of {name}")

    monkeypatch.setattr(training_evaluation, "find_network", missing)
    with pytest.raises(FileNotFoundError, match="no weights of efficientnet_lite0"):
        training_evaluation.check(measured(autoencoder.get_config(), "rfid"))


def test_a_config_of_before_is_not_measured():
    config = autoencoder.get_config()
    del config.evaluation
    config_lib.check(config)
    training_evaluation.check(config)
    assert training_evaluation.every(config) == 0
