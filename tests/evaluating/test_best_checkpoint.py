import json
import shutil

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from ldm_jax import config as config_lib
from ldm_jax.evaluating.best_checkpoint import BestCheckpoint
from ldm_jax.training import checkpoints
from ldm_jax.training.state import TrainState


def state_of(step):
    return TrainState(
        step=jnp.int32(step),
        params={"backbone": {"kernel": jnp.full((2,), float(step))}},
        ema=None,
        opt_state={"denoiser": {"mu": jnp.zeros((2,))}},
        collections={"latent_scale": jnp.float32(1)},
    )


def best_of(workdir):
    return BestCheckpoint(workdir, ConfigDict({"autoencoder": {"checkpoint": ""}}))


@pytest.mark.parametrize(
    ("name", "values", "kept"),
    [("fid", (9.0, 5.0, 7.0), 20), ("precision_tiny", (0.2, 0.1, 0.4), 30)],
)
def test_the_best_by_the_metrics_direction_is_kept(name, values, kept, tmp_path):
    for step, value in zip((10, 20, 30), values, strict=True):
        best_of(tmp_path).offer(state_of(step), name, value)  # as after a restart
    params = checkpoints.load_params(tmp_path / "best")
    assert params["backbone"]["kernel"][0] == kept
    assert checkpoints.all_steps(tmp_path / "best") == [kept]
    assert checkpoints.load_item(tmp_path / "best", "opt_state") == {}
    record = json.loads((tmp_path / "best/best.json").read_text())
    assert (record["metric"], record["step"]) == (name, kept)


def test_a_best_of_steps_that_were_taken_back_does_not_count(tmp_path):
    best = best_of(tmp_path)
    assert best.offer(state_of(30), "fid", 1.0)
    assert best.offer(state_of(10), "fid", 8.0)
    assert not best.offer(state_of(20), "fid", 9.0)
    assert checkpoints.all_steps(tmp_path / "best") == [10]


def test_the_former_best_stays_if_the_disk_is_too_full(tmp_path, monkeypatch, caplog):
    best = best_of(tmp_path)
    assert best.offer(state_of(10), "fid", 8.0)
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)._replace(free=0)
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        assert not best.offer(state_of(20), "fid", 7.0)
    assert checkpoints.all_steps(tmp_path / "best") == [10]
    assert "not kept" in caplog.text and "0 MiB free" in caplog.text
    assert best.offer(state_of(30), "fid", 7.5)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_what_lies_in_the_runs_folder_is_found_from_within_best(tmp_path):
    (tmp_path / "autoencoder").mkdir()
    config = ConfigDict({"autoencoder": {"checkpoint": "autoencoder"}})
    BestCheckpoint(tmp_path, config).offer(state_of(1), "fid", 1.0)
    saved = json.loads((tmp_path / "best/config.json").read_text())
    path = saved["autoencoder"]["checkpoint"]
    found = config_lib.resolve(path, tmp_path / "best")
    assert found.resolve() == (tmp_path / "autoencoder").resolve()
    assert config.autoencoder.checkpoint == "autoencoder"
