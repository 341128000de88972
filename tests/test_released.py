"""Released models: one folder that is written, moved, read, refused."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import ldm_jax
from configs.parts import latent_diffusion
from configs.tiny import autoencoder, ldm
from ldm_jax import build, loading, pretrained, released, trees
from ldm_jax import config as config_lib
from ldm_jax.data.wordpiece import train_wordpiece
from ldm_jax.training import checkpoints
from ldm_jax.training.state import TrainState
from tests.test_published_training import random_like

CAPTIONS = ["a red apple", "two green pears", "a blue boat on the sea"] * 2


def write_run(workdir, config, collections=None, class_names=(), **given):
    shapes, _ = jax.eval_shape(build.experiment(config).init, jax.random.key(0))
    params = random_like(shapes) | given
    state = TrainState(jnp.int32(3), params, None, {}, collections or {})
    with checkpoints.open_checkpoints(workdir) as manager:
        checkpoints.save(manager, state, {"class_names": list(class_names)})
        checkpoints.wait(manager)
    config_lib.save(config, workdir / "config.json")
    return params


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A class-conditional model and one of text, on one first stage."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "ae", autoencoder.get_config())
    config = ldm.get_config()
    config.autoencoder.checkpoint = str(folder / "ae")
    write_run(
        folder / "classes",
        config,
        {"latent_scale": jnp.float32(0.5)},
        [f"class {i}" for i in range(8)],
    )
    config = text_config(folder)
    encoder = released.read(folder / "encoder").params["conditioner"]
    scale = {"latent_scale": jnp.float32(0.5)}
    write_run(folder / "text", config, scale, conditioner=encoder)
    return folder


def text_config(folder):
    """A frozen encoder in a released folder of its own, with its vocabulary."""
    config = ldm.get_config()
    config.autoencoder.checkpoint = str(folder / "ae")
    config.backbone = latent_diffusion.transformer_unet(
        model_channels=8,
        channel_mult=(1, 2),
        attention_resolutions=(2,),
        num_res_blocks=1,
        num_head_channels=8,
    )
    config.backbone.num_groups = 4
    train_wordpiece(CAPTIONS, 60, folder / "encoder/tokenizer")
    config.tokenizer = ConfigDict(
        {
            "name": "wordpiece",
            "path": str(folder / "encoder/tokenizer"),
            "max_length": 8,
            "vocab_size": 60,
        }
    )
    config.conditioner = ConfigDict(
        {
            "name": "bert_text",
            "width": 16,
            "num_layers": 1,
            "num_heads": 2,
            "drop_rate": 0.1,
            "trainable": False,
            "checkpoint": str(folder / "encoder"),
        }
    )
    conditioner = build.latent_diffusion(config).conditioner
    shapes = jax.eval_shape(
        conditioner.init, jax.random.key(0), {"tokens": jnp.zeros((1, 8), jnp.int32)}
    )
    encoder = released.Released(
        {"conditioner": random_like(shapes["params"])}, None, 0, ()
    )
    section = ConfigDict({"task": "text_encoding"})
    released.write(folder / "encoder", section, encoder, dtype="float32")
    return config


def test_a_released_model_draws_what_its_run_draws(runs, tmp_path):
    loading.release(runs / "classes", tmp_path / "whole", dtype="float32")
    options = {"num_samples": 2, "class_labels": ["class 3", "class 1"], "steps": 2}
    ours = ldm_jax.load(runs / "classes")
    theirs = ldm_jax.load(tmp_path / "whole")
    assert (theirs.step, theirs.class_names) == (ours.step, ours.class_names)
    np.testing.assert_array_equal(theirs.sample(**options), ours.sample(**options))


def test_half_precision_halves_the_file_and_rounds(runs, tmp_path):
    for dtype in ("float32", "float16"):
        loading.release(runs / "classes", tmp_path / dtype, dtype=dtype)
    sizes = [
        (tmp_path / d / released.WEIGHTS).stat().st_size for d in ("float32", "float16")
    ]
    count = trees.num_elements(released.read(tmp_path / "float32").params)
    assert abs(sizes[0] - sizes[1] - 2 * count) < 4096  # the header's digits
    exact = trees.flatten(released.read(tmp_path / "float32").params)
    rounded = trees.flatten(released.read(tmp_path / "float16").params)
    for name, value in exact.items():
        np.testing.assert_array_equal(rounded[name], value.astype(np.float16))


def test_a_shared_text_encoder_is_referred_to_and_moves_along(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    config = config_lib.load(tmp_path / "runs/text/config.json")
    config.autoencoder.checkpoint = str(tmp_path / "runs/ae")
    config.conditioner.checkpoint = str(tmp_path / "runs/encoder")
    config.tokenizer.path = str(tmp_path / "runs/encoder/tokenizer")
    config_lib.save(config, tmp_path / "runs/text/config.json")
    loading.release(tmp_path / "runs/text", tmp_path / "runs/small", dtype="float32")
    assert "conditioner" not in released.read(tmp_path / "runs/small").params
    options = {"prompts": ["a red apple", "a boat"], "steps": 2, "guidance_scale": 2.0}
    expected = ldm_jax.load(runs / "text").sample(**options)

    (tmp_path / "elsewhere").mkdir()
    for name in ("small", "encoder"):
        (tmp_path / "runs" / name).rename(tmp_path / "elsewhere" / name)
    shutil.rmtree(tmp_path / "runs")
    moved = ldm_jax.load(tmp_path / "elsewhere/small")
    np.testing.assert_array_equal(moved.sample(**options), expected)


def test_a_text_encoder_that_was_trained_on_is_copied(runs, tmp_path):
    config = config_lib.load(runs / "text/config.json")
    config.conditioner.trainable = True
    shutil.copytree(runs / "text", tmp_path / "trained")
    config_lib.save(config, tmp_path / "trained/config.json")
    loading.release(tmp_path / "trained", tmp_path / "model", dtype="float32")
    ours = released.read(tmp_path / "model").params["conditioner"]
    theirs = checkpoints.load_params(runs / "text")["conditioner"]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_training_takes_the_first_stage_of_a_released_model(runs, tmp_path):
    loading.release(runs / "classes", tmp_path / "model", dtype="float32")
    config = ldm.get_config()
    config.autoencoder.checkpoint = str(tmp_path / "model")
    ours = pretrained.frozen(config)["autoencoder"]
    theirs = checkpoints.load_params(runs / "ae")["autoencoder"]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_raw_parameters_and_other_steps_are_refused(runs, tmp_path):
    loading.release(runs / "classes", tmp_path / "model")
    for options in ({"ema": False}, {"step": 7}):
        with pytest.raises(ValueError, match="averaged parameters of step 3 and no"):
            ldm_jax.load(tmp_path / "model", **options)


def test_a_parameter_that_half_precision_cannot_hold_is_named(tmp_path):
    model = released.Released({"backbone": {"w": np.full(3, 1e6)}}, None, 0, ())
    with pytest.raises(ValueError, match=r"backbone/w does not fit into float16"):
        released.write(tmp_path / "model", ConfigDict(), model)
    assert not released.is_released(tmp_path / "model")


def test_a_damaged_file_is_one_sentence(runs, tmp_path):
    loading.release(runs / "classes", tmp_path / "model")
    weights = tmp_path / "model" / released.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="cannot be read .*fetch the folder again"):
        ldm_jax.load(tmp_path / "model")
