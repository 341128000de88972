"""Both stages trained by train.py in two processes: equal to one, resumed by any number.

Minutes, for every process compiles; the same in miniature, with the signals, is in
tests/training/test_distributed.py.
"""

import json
from pathlib import Path

import numpy as np
import processes
import pytest

from ldm_jax import trees
from ldm_jax.training import checkpoints

pytestmark = pytest.mark.slow

NUM_STEPS = 4
TIMINGS = ("images_per_sec", "mfu")
SMALL = {"train__num_steps": NUM_STEPS, "train__log_every": 1}
# Wide enough for fsdp to split something.
WIDE = {
    "kl": {"autoencoder__ch": 32, "autoencoder__dropout": 0.0},
    "denoiser": {"backbone__model_channels": 64, "backbone__dropout": 0.0},
}
# Of losses, after the second step; seen: 2e-7.
RTOL = 1e-4


def command(stage: str, workdir: Path, first_stage: Path, **overrides):
    fields = {**SMALL, **WIDE[stage], **overrides}
    if stage == "kl":
        return processes.train_command("tiny/autoencoder.py:kl", workdir, **fields)
    return processes.train_command(
        "tiny/ldm.py", workdir, autoencoder__checkpoint=first_stage, **fields
    )


def train(*args, num_devices: int = 4, **kwargs) -> None:
    with processes.start(command(*args, **kwargs), num_devices=num_devices) as process:
        processes.finish([process], 900)


def train_by_two(*args, **kwargs) -> list[str]:
    with processes.start_group(command(*args, **kwargs)) as group:
        processes.finish(group, 900)
        return [process.stderr for process in group]


def rows(workdir: Path) -> list[dict]:
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in found]


def assert_alike(found: Path, expected: Path, rtol: float) -> None:
    """The same rows, their values to within `rtol`, and to 1e-5 in the first two steps."""
    ours, theirs = rows(found), rows(expected)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert our.keys() == their.keys()
        limit = 1e-5 if our["step"] <= 2 else rtol
        for name in (n for n in our if n.endswith("loss")):
            np.testing.assert_allclose(
                our[name], their[name], rtol=limit, atol=1e-6, err_msg=f"{name} {our}"
            )


def step_losses(workdir: Path) -> list[float]:
    return [row["loss"] for row in rows(workdir) if "loss" in row]


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("first_stage")
    fields = {"train__num_steps": 1, "autoencoder__ch": 8}
    train("kl", workdir, workdir, num_devices=1, **fields)
    return workdir


@pytest.fixture(scope="module", params=["kl", "denoiser"])
def alone(request, first_stage, tmp_path_factory):
    """(stage, workdir) of a whole training in one process."""
    workdir = tmp_path_factory.mktemp("alone")
    everything = {"train__preview_every": 2, "train__evaluate_every": 2}
    train(request.param, workdir, first_stage, **everything)
    return request.param, workdir


@pytest.mark.parametrize("fsdp", [1, 4])
def test_two_processes_train_as_one(alone, first_stage, tmp_path, fsdp):
    stage, expected = alone
    everything = {"train__preview_every": 2, "train__evaluate_every": 2}
    logs = train_by_two(stage, tmp_path, first_stage, mesh__fsdp=fsdp, **everything)
    assert_alike(tmp_path, expected, RTOL)
    assert f"step {NUM_STEPS}/{NUM_STEPS}" in logs[0] and "step" not in logs[1]
    names = [path.name for path in (tmp_path / "previews").iterdir()]
    assert sorted(names) == ["step_2.png", "step_4.png"]
    items = ("params", "ema", "collections") if stage == "denoiser" else ("params",)
    for item in items:
        ours = trees.flatten(checkpoints.load_item(tmp_path, item, step=2))
        theirs = trees.flatten(checkpoints.load_item(expected, item, step=2))
        assert ours.keys() == theirs.keys()
        # The softmax does not see the keys' bias: Adam blows up its round-off.
        for name in (n for n in ours if not n.endswith("k/bias")):
            np.testing.assert_allclose(
                ours[name], theirs[name], atol=1e-5, err_msg=f"{item}/{name}"
            )


def test_other_numbers_of_processes_and_devices_go_on(alone, first_stage, tmp_path):
    stage, expected = alone
    there, back = tmp_path / "there", tmp_path / "back"
    train_by_two(stage, there, first_stage, train__num_steps=2, mesh__fsdp=4)
    train(stage, there, first_stage, num_devices=8, mesh__fsdp=2)
    train(stage, back, first_stage, num_devices=1, train__num_steps=2)
    train_by_two(stage, back, first_stage)
    for workdir in (there, back):
        np.testing.assert_allclose(
            step_losses(workdir), step_losses(expected), rtol=RTOL
        )


def test_two_processes_share_a_cache_of_latents(first_stage, tmp_path):
    fields = {
        "latent__cache": True,
        "data__crop": "center",
        "data__source": "emoji64:val",
    }
    train("denoiser", tmp_path / "one", first_stage, **fields)
    train_by_two("denoiser", tmp_path / "two", first_stage, **fields)
    assert len([*(tmp_path / "two" / "latents").glob("*.npy")]) == 2
    np.testing.assert_allclose(
        step_losses(tmp_path / "two"), step_losses(tmp_path / "one"), rtol=RTOL
    )


def test_a_mistake_ends_all_processes_with_its_sentence(tmp_path):
    fields = {"data__source": "folder:/nowhere"}
    with processes.start_group(command("kl", tmp_path, tmp_path, **fields)) as group:
        assert [process.wait(120) for process in group] == [2, 2]
        assert group[0].stderr.count("error: ") == 1
        assert "Traceback" not in group[0].stderr + group[1].stderr
