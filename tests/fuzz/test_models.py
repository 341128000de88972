"""Configs, published checkpoints and our own, damaged."""

import importlib
import json
import shutil
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from fuzz.damage import SCALARS, damaged_bytes, damaged_tree
from fuzz.oracle import attempt
from hypothesis import given, settings
from hypothesis import strategies as st
from interop.archive_files import FORMATS, save, tensors
from ml_collections import ConfigDict
from training import toy

from ldm_jax import build
from ldm_jax import config as config_lib
from ldm_jax.interop.archive import open_checkpoint
from ldm_jax.run_step import create_fn, step_fn
from ldm_jax.training import checkpoints
from ldm_jax.training.checkpoint_files import checkpoint_dir
from ldm_jax.trees import flatten

pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).parents[2]

# Traced in a second or two each.
SMALL = ("configs.tiny.autoencoder", "configs.tiny.ldm")
PUBLISHED = tuple(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "configs").rglob("*.py"))
    if path.stem != "__init__"
    and "parts" not in path.parts
    and "tiny" not in path.parts
)
# A case of these is traced; the profile's number would take hours.
TRACED = max(2, settings().max_examples // 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def fields(section: ConfigDict, prefix: str = "") -> list[str]:
    """Names of all fields, as they are overridden on the command line."""
    found = []
    for name in section:
        if isinstance(section[name], ConfigDict):
            found += fields(section[name], f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


WORDS = ("none", "kl", "vq", "eps", "v", "x0", "plain", "transformer", "cosine", "bert")
LIKE = {
    int: st.one_of(st.integers(-2, 9), st.sampled_from([0, 16, 64, 2**31])),
    float: st.one_of(st.sampled_from([0.0, 1.0, -1.0, 1e-9, 1e30]), st.floats()),
    str: st.one_of(st.sampled_from(WORDS), st.text(max_size=5)),
    tuple: st.lists(st.integers(-1, 9), max_size=4).map(tuple),
    bool: st.booleans(),
}


def like(draw: st.DrawFn, value: object) -> object:
    """A value that the command line would take for this field."""
    kind = float if value is None else type(value)
    return draw(LIKE.get(kind, SCALARS))


def overridden(draw: st.DrawFn, config: ConfigDict) -> ConfigDict:
    """The config with one to three fields changed, as `--config.x.y=...` would."""
    chosen = draw(st.lists(st.sampled_from(fields(config)), min_size=1, max_size=3))
    for name in chosen:
        value = like(draw, _get(config, name))
        try:
            config.update_from_flattened_dict({name: value})
        except (TypeError, ValueError):  # the flag parser's to tell
            continue
    return config


def _get(config: ConfigDict, name: str) -> object:
    for part in name.split("."):
        config = config[part]
    return config


def trace(config: ConfigDict) -> object:
    """Everything of a run that needs no data: its state and its step, as shapes."""
    config_lib.check(config)
    experiment = build.experiment(config)
    key = jax.random.key(0)
    state = jax.eval_shape(create_fn(config, experiment), key)
    conditioner = experiment.ldm.conditioner if experiment.ldm else None
    batch = build.example_batch(config, config.train.batch_size, conditioner)
    frozen = {}
    if config.task == "denoising":
        module = experiment.autoencoder
        image = build.example_batch(config, 1)["image"]
        frozen = {"autoencoder": jax.eval_shape(module.init, key, image, key)["params"]}
    return jax.eval_shape(step_fn(config, experiment, key), state, frozen, batch)


@settings(max_examples=TRACED)
@given(st.sampled_from(SMALL), st.data())
def test_overrides_of_small_configs(name, data):
    config = importlib.import_module(name).get_config()
    config = data.draw(st.composite(overridden)(config))
    attempt("small configs", lambda: trace(config))


@given(st.sampled_from(PUBLISHED), st.data())
def test_overrides_of_every_config(name, data):
    config = importlib.import_module(name).get_config()
    config = data.draw(st.composite(overridden)(config))

    def made():
        config_lib.check(config)
        return build.experiment(config)

    attempt("all configs", made)


@given(st.sampled_from(SMALL), st.data())
def test_configs_of_workdirs(folder, name, data):
    original = importlib.import_module(name).get_config()
    tree = json.loads(original.to_json_best_effort())
    path = folder / "config.json"
    path.write_text(json.dumps(data.draw(damaged_tree(tree))))

    def made():
        config = config_lib.load(path)
        with config_lib.blaming(path):
            return build.experiment(config)

    attempt("configs of workdirs", made)


CONFIG = {"task": "autoencoding", "train": {}, "data": {}, "autoencoder": {"ch": 8}}


@given(damaged_bytes([json.dumps(CONFIG).encode()]))
def test_config_files(folder, content):
    path = folder / "config.json"
    path.write_bytes(content)
    attempt("config files", lambda: config_lib.load(path), names=str(path))


@pytest.fixture(scope="module")
def archives(folder):
    pytest.importorskip("torch")
    return {
        layout: save(tensors(), folder / "whole.ckpt", layout).read_bytes()
        for layout in FORMATS
    }


@given(st.sampled_from(FORMATS), st.data())
def test_published_checkpoints(folder, archives, layout, data):
    path = folder / "model.ckpt"
    path.write_bytes(data.draw(damaged_bytes([archives[layout]])))

    def read():
        with warnings.catch_warnings(action="ignore"):
            return [x.sum() for x in open_checkpoint(path).tensors.values()]

    attempt("published checkpoints", read, names=str(path))


@pytest.fixture(scope="module")
def trained(folder):
    """A workdir with one checkpoint, and what is in it."""
    workdir = folder / "trained"
    with checkpoints.open_checkpoints(workdir) as manager:
        checkpoints.save(manager, toy.new_state())
    params = flatten(checkpoints.load_item(workdir, "params", step=0))
    return workdir, {name: np.asarray(x) for name, x in params.items()}


@given(st.data())
def test_our_checkpoints(folder, trained, data):
    workdir, params = trained
    copy = folder / "damaged"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(workdir, copy)
    files = sorted(path for path in checkpoint_dir(copy).rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    path.write_bytes(data.draw(damaged_bytes([content])))

    def read():
        return flatten(checkpoints.load_item(copy, "params", step=0))

    found = attempt("our checkpoints", read, names=str(copy))
    if found is not None:
        for name, value in params.items():
            np.testing.assert_array_equal(found[name], value, err_msg=str(path))
