"""Runs whose denoiser is told something: captions, a frozen text encoder, what is missing."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ldm_jax import build, loading, pretrained, run
from ldm_jax import config as config_lib
from ldm_jax.training import checkpoints
from ldm_jax.training.state import TrainState
from tests.published_models import config_of, narrow
from tests.test_published_training import random_like

WORDS = ("a red apple", "two green pears", "", "a blue boat on the sea")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Four pictures, three of them with a caption beside them."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for index, words in enumerate(WORDS):
        pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        if words:
            (folder / f"{index}.txt").write_text(words)
    return folder


def write_workdir(workdir: Path, config, params) -> Path:
    """A run that has these parameters and no more."""
    state = TrainState(jnp.int32(0), params, None, {}, {})
    with checkpoints.open_checkpoints(workdir) as manager:
        checkpoints.save(manager, state)
        checkpoints.wait(manager)
    config_lib.save(config, workdir / "config.json")
    return workdir


def write_first_stage(workdir: Path, config, name: str) -> Path:
    """A first stage of random parameters, as `config` expects it."""
    first_stage = config_of(f"autoencoder.{name}")
    described = dict(config.autoencoder)
    described.pop("checkpoint")
    first_stage.autoencoder.update(described)
    image = jnp.zeros((1, 32, 32, 3))
    key = jax.random.key(0)
    shapes = jax.eval_shape(build.autoencoder(config).init, key, image, key)
    params = {"autoencoder": random_like(shapes["params"])}
    return write_workdir(workdir, first_stage, params)


def short(name: str, pictures: Path):
    config = narrow(config_of(name))
    config.data.source = f"folder:{pictures}"
    config.optimizer.schedule = {"name": "constant"}
    config.train.update(
        {
            "num_steps": 2,
            "learning_rate": 1e-2,
            "log_every": 1,
            "preview_every": 0,
            "evaluate_every": 0,
        }
    )
    config_lib.check(config)
    return config


@pytest.mark.slow
def test_text_to_image_trains_on_captions_and_moves_with_its_folder(pictures, tmp_path):
    config = short("text2img_f4", pictures)
    workdir = tmp_path / "run"
    write_first_stage(workdir / "autoencoder", config, "vq_f4")
    config.autoencoder.checkpoint = "autoencoder"  # relative to the workdir
    run.train(config, workdir, devices=jax.devices()[:1])

    moved = tmp_path / "elsewhere"
    shutil.move(workdir, moved)
    model = loading.load(moved)
    assert model.conditioning_fields == ("tokens",) and model.step == 2
    assert model.tokenizer(["a red apple"]).shape == (1, 77)
    raw = checkpoints.load_params(moved, item="params")
    average = checkpoints.load_item(moved, "ema")
    assert raw.keys() == average.keys() == {"backbone", "conditioner"}
    for group in average:
        for ours, theirs in zip(
            jax.tree.leaves(model.params[group]),
            jax.tree.leaves(average[group]),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_frozen_text_encoder_comes_from_its_checkpoint(pictures, tmp_path):
    """That it stays as it is: test_published_training.py."""
    config = short("sd_v1", pictures)
    first_stage = write_first_stage(tmp_path / "first_stage", config, "kl_f8")
    config.autoencoder.checkpoint = str(first_stage)
    experiment = build.experiment(config)
    shapes, _ = jax.eval_shape(experiment.init, jax.random.key(0))
    conditioner = random_like(shapes["conditioner"], seed=3)
    released = write_workdir(
        tmp_path / "released", config, {"conditioner": conditioner}
    )
    config.conditioner.checkpoint = str(released)
    config.train.num_steps = 0
    run.train(config, tmp_path / "run", devices=jax.devices()[:1])

    params = checkpoints.load_params(tmp_path / "run", item="params")
    for ours, theirs in zip(
        jax.tree.leaves(params["conditioner"]),
        jax.tree.leaves(conditioner),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert checkpoints.load_item(tmp_path / "run", "ema").keys() == {"backbone"}
    # The average of the denoiser, the raw text encoder: nothing is read twice.
    merged = checkpoints.load_params(tmp_path / "run")
    assert merged.keys() == {"backbone", "conditioner"}


def refused(config, workdir: Path, match: str) -> None:
    with pytest.raises((ValueError, OSError), match=match) as caught:
        config_lib.check(config)
        run.train(config, workdir, devices=jax.devices()[:1])
    assert "\n" not in str(caught.value)


def test_a_frozen_conditioner_without_parameters_is_named(pictures, tmp_path):
    config = short("sd_v1", pictures)
    shapes = {"encoder": {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32)}}
    with pytest.raises(ValueError, match="config.conditioner.checkpoint is empty"):
        pretrained.conditioner(config, shapes)
    other = {"conditioner": {"encoder": {"kernel": np.zeros((2, 4), np.float32)}}}
    config.conditioner.checkpoint = str(write_workdir(tmp_path, config, other))
    with pytest.raises(ValueError, match="another one: encoder/kernel"):
        pretrained.conditioner(config, shapes)
    none = {"backbone": other["conditioner"]}
    workdir = write_workdir(tmp_path / "none", config, none)
    config.conditioner.checkpoint = str(workdir)
    with pytest.raises(ValueError, match="has no conditioner"):
        pretrained.conditioner(config, shapes)


def test_pictures_without_captions_are_named(pictures, tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    shutil.copy(pictures / "0.png", folder)
    config = short("text2img_f4", folder)
    refused(config, tmp_path / "run", "has no captions")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("semantic_landscapes_f4", "--config.data.segmentation=FOLDER"),
        ("layout_openimages_f4", "--config.data.layout=FILE"),
        ("rdm_768", "--config.data.neighbors=FOLDER"),
        ("imagenet_f4", "one subfolder a class"),
    ],
)
def test_what_the_pictures_lack_is_named(name, says, pictures, tmp_path):
    refused(short(name, pictures), tmp_path / "run", says)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("text2img_f4", {"tokenizer": {"name": "t5"}}, "tokenizer.name is 't5'"),
        ("sd_v1", {"tokenizer": {"name": "none"}}, "set it to clip"),
        ("ffhq_f4", {"tokenizer": {"name": "bert"}}, "reads no text"),
        ("text2img_f4", {"backbone": {"attention": "plain"}}, "'transformer'"),
        ("ffhq_f4", {"sampler": {"guidance_scale": 2.0}}, "guidance_scale=2.0"),
        ("inpaint_f4", {"sampler": {"guidance_scale": 2.0}}, "guidance_scale=2.0"),
        (
            "layout_openimages_f4",
            {"tokenizer": {"max_objects": 4}},
            "max_length is 92 but config.tokenizer.max_objects=4 makes 14",
        ),
        ("sr_bsr_f4", {"latent": {"cache": True}}, "latent.cache"),
        ("layout_openimages_f4", {"latent": {"cache": True}}, "latent.cache"),
        ("sd_v1", {"conditioner": {"vocab_size": 30_522}}, "vocab_size is 30522"),
        ("text2img_f4", {"conditioner": {"max_length": 5}}, "max_length is 5"),
        ("sr_bsr_f4", {"conditioner": {"slot": "tokens"}}, "config.conditioner"),
        ("sd_v1_inpaint", {"conditioner": {"text": {"name": "bert"}}}, "conditioner"),
    ],
)
def test_sections_that_do_not_fit_are_named(name, changes, says):
    config = narrow(config_of(name))
    for section, fields in changes.items():
        config[section].update(fields)
    with pytest.raises(ValueError, match=says) as caught:
        config_lib.check(config)
        build.experiment(config)
    assert "\n" not in str(caught.value)


def test_a_path_is_looked_for_in_the_workdir_first(tmp_path):
    (tmp_path / "autoencoder").mkdir()
    assert config_lib.resolve("autoencoder", tmp_path) == tmp_path / "autoencoder"
    assert config_lib.resolve("runs/vq_f4", tmp_path) == Path("runs/vq_f4")
    assert config_lib.resolve("/abs", tmp_path) == Path("/abs")
