"""Feature metrics, best checkpoints, curves and health while a model trains."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

import ldm_jax
from configs.tiny import autoencoder, ldm
from ldm_jax import config as config_lib
from ldm_jax import run
from ldm_jax.evaluating import during_training
from tests.evaluation.tiny_network import tiny_network


def named_tiny_network(name, path):
    del path
    return tiny_network(name)


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
    monkeypatch.setattr(during_training, "find_network", named_tiny_network)


def rows(workdir: Path) -> list[dict]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def measured(config, *metrics):
    """The config with these metrics, and nothing else to compile."""
    if config.task == "autoencoding":
        config.adversarial.name = "none"
    config.evaluation.update(
        {
            "every": 1,
            "metrics": metrics,
            "network": "efficientnet_lite0",
            "num_samples": 20,
            "num_reference": 30,
        }
    )
    config.train.update({"num_steps": 2, "evaluate_every": 0})
    return config


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    """Measured after both of its steps."""
    workdir = tmp_path_factory.mktemp("runs") / "first_stage"
    config = measured(autoencoder.get_config(), "rfid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(during_training, "find_network", named_tiny_network)
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


def test_samples_of_a_denoiser_are_measured(first_stage, tmp_path):
    config = measured(ldm.get_config(), "fid", "kid", "prec_recall")
    config.autoencoder.checkpoint = str(first_stage)
    config.sampler.update({"num_steps": 2, "guidance_scale": 1.0})
    opened = run._open(config, tmp_path, jax.devices()[:1])
    state = jax.jit(run.create_fn(config, opened.experiment))(jax.random.key(0))
    written = {}

    class Recorder:
        def write_scalars(self, step, scalars):
            written[step] = dict(scalars)

    hook = during_training.measure_hook(opened, [Recorder()])
    hook(1, state, {})
    hook(2, state, {})
    names = ("fd", "kd", "precision", "recall")
    assert {f"val/{name}_efficientnet_lite0" for name in names} <= written[1].keys()
    assert all(np.isfinite(list(written[1].values())))
    assert written[1] == written[2]  # the same noise, conditions and real pictures
    config_lib.save(config, tmp_path / "config.json")
    model = ldm_jax.load(tmp_path / "best")
    assert len(model.class_names) == 8


class Shown:
    """A writer that keeps the last picture."""

    def write_image(self, step, name, pixels):
        self.seen = step, name, pixels


def test_the_curves_are_a_picture_with_what_is_wrong_below(tmp_path, caplog):
    collapsed = {"loss": 1.0, "generator/posterior_std": 0.99}
    lines = [json.dumps({"step": step, **collapsed}) for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    of_run = SimpleNamespace(workdir=tmp_path, config=autoencoder.get_config())
    writer = Shown()
    hook = during_training.curves_hook(of_run, [writer])
    with caplog.at_level("WARNING", logger="ldm_jax"):
        hook(3, None, {})
        hook(3, None, {})
    assert [r.message[:30] for r in caplog.records] == [
        "step 3: the posterior has coll"
    ]
    step, name, pixels = writer.seen
    assert (step, name) == (3, "curves")
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "curves.png")), pixels
    )
    assert pixels.shape[0] > 220 and pixels.shape[1] == 1080


def test_wrong_metrics_and_missing_weights_stop_a_run_before_it_starts(
    tmp_path, monkeypatch
):
    config = measured(autoencoder.get_config(), "fid")
    with pytest.raises(ValueError, match="no metric 'fid': choose of rfid, ris"):
        run.train(config, tmp_path / "run", devices=jax.devices()[:1])
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="metrics is empty"):
        during_training.check(measured(autoencoder.get_config()))

    def missing(name, path):
        raise FileNotFoundError(f"no weights of {name}")

    monkeypatch.setattr(during_training, "find_network", missing)
    with pytest.raises(FileNotFoundError, match="no weights of efficientnet_lite0"):
        during_training.check(measured(autoencoder.get_config(), "rfid"))


def test_a_config_of_before_is_not_measured():
    config = autoencoder.get_config()
    del config.evaluation
    config_lib.check(config)
    during_training.check(config)
    assert during_training.every(config) == 0
