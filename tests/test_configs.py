"""Every config builds, from shapes alone, and has the parameters it claims."""

import importlib
import re
from pathlib import Path

import jax
import pytest

from ldm_jax import build, plan, run, trees
from ldm_jax import config as config_lib

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for folder in ("configs", "configs/autoencoder", "configs/emoji", "configs/tiny")
    for path in (ROOT / folder).glob("*.py")
    if path.stem != "__init__"
)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_builds(name):
    """The parameters of the published ones: tests/interop/test_published_models.py."""
    config = importlib.import_module(name).get_config()
    config_lib.check(config)
    experiment = build.experiment(config)
    if re.search("tiny|emoji", name):
        state = jax.eval_shape(run.create_fn(config, experiment), jax.random.key(0))
        assert trees.num_elements(state.params) > 0


def test_another_argument_gives_the_larger_landscapes():
    get_config = importlib.import_module("configs.semantic_landscapes_f4").get_config
    config = get_config("512")
    config_lib.check(config)
    assert config.data.image_size == 512 and config.train.batch_size == 8
    assert get_config().data.image_size == 256


def test_every_published_config_states_its_size():
    published = [name for name in CONFIGS if not re.search("tiny|emoji", name)]
    assert len(published) == 9 + 16
    for name in published:
        doc = importlib.import_module(name).__doc__
        assert re.search(r"[\d,]{9,}\s+parameters", doc), name
        assert "python train.py" in doc, name


def test_the_plan_of_ffhq_shows_the_published_counts():
    config = importlib.import_module("configs.ffhq_f4").get_config()
    config.train.batch_size = 8
    text = plan.describe(config)
    assert re.search(r"trained: denoiser +274,056,163 parameters", text)
    assert re.search(r"frozen: first stage +55,322,782 parameters", text)
    per_picture = float(re.search(r"FLOPs of a picture +([\d.]+) TFLOP", text)[1])
    # 0.61 for the denoiser's forward and backward, and the first stage's encoder.
    assert 0.6 < per_picture < 1.5
    assert "memory: activations" in text


def test_plans_follow_the_mesh():
    config = importlib.import_module("configs.tiny.ldm").get_config()
    config.mesh.update({"data": 2, "fsdp": 4})
    assert "data 2 x fsdp 4" in plan.describe(config)
