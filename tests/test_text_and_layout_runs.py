"""Runs on captions in words of their own and on layouts, from train to sample."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.parts import conditioners
from configs.tiny import autoencoder as tiny_autoencoder
from configs.tiny import ldm as tiny_ldm
from ldm_jax import (
    build,
    build_conditioner,
    build_data,
    caption_vocabulary,
    loading,
    run,
)
from ldm_jax import config as config_lib
from ldm_jax.data.layouts import read_layout
from tests.test_conditioned_runs import write_workdir
from tests.test_published_training import random_like

CAPTIONS = ("two red apples", "a red apple", "two green pears", "", "a blue boat")


def config_for(source: str, workdir: Path):
    """A tiny transformer on tokens, on a first stage of random weights; two steps."""
    first_stage = tiny_autoencoder.get_config("kl")
    image, key = jnp.zeros((1, 32, 32, 3)), jax.random.key(0)
    module = build.experiment(first_stage).autoencoder
    params = jax.eval_shape(module.init, key, image, key)["params"]
    params = {"autoencoder": random_like(params)}
    write_workdir(workdir / "autoencoder", first_stage, params)

    config = tiny_ldm.get_config("kl")
    config.autoencoder.checkpoint = "autoencoder"
    config.backbone.update({"channel_mult": (1,), "attention_resolutions": (1,)})
    config.backbone.update({"attention": "transformer", "dropout": 0.0})
    config.conditioner = conditioners.token_transformer(
        embed_dim=8, num_layers=1, vocab_size=900, max_length=14
    )
    config.latent.scale_by_std = False
    # Nothing is left out, so that words and boxes run the same compiled programs.
    config.sampler.guidance_scale = 1.0
    config.data.update({"source": source, "num_workers": 0})
    config.train.update(
        {
            "num_steps": 2,
            "batch_size": 4,
            "log_every": 1,
            "ema_decay": 0.0,
            "preview_every": 0,
            "evaluate_every": 0,
        }
    )
    return config


def train(config, workdir: Path):
    config_lib.check(config)
    run.train(config, workdir, devices=jax.devices()[:1])
    model = loading.load(workdir)
    assert model.step == config.train.num_steps
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
    assert len(losses) == config.train.num_steps and np.isfinite(losses).all()
    return model


def pictures_differ(model, **conditions) -> bool:
    """Whether two conditions give two pictures from the same noise.

    Of random parameters: two steps from zero are rounded away.
    """
    model = dataclasses.replace(model, params=random_like(model.params))
    ((name, pair),) = conditions.items()
    first, second = (model.sample(steps=2, **{name: [value]}) for value in pair)
    return bool((first != second).any())


@pytest.fixture
def captioned(tmp_path) -> str:
    """Pictures with captions beside them, one of them without."""
    folder = tmp_path / "captioned"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index, words in enumerate(CAPTIONS):
        pixels = random.integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        if words:
            (folder / f"{index}.txt").write_text(words)
    return f"folder:{folder}"


def own_words(source: str, workdir: Path):
    config = config_for(source, workdir)
    config.tokenizer = conditioners.own_tokenizer(vocab_size=900, max_length=14)
    return config


def test_a_text_model_trains_on_a_vocabulary_of_its_own_captions(captioned, tmp_path):
    workdir = tmp_path / "run"
    config = own_words(captioned, workdir)
    model = train(config, workdir)
    words = (workdir / "tokenizer/vocab.txt").read_text().split()
    assert words[0] == "[PAD]" and len(words) < 60 and "red" in words
    table = model.params["conditioner"]["encoder"]
    assert 900 in {len(leaf) for leaf in jax.tree.leaves(table)}
    null = model.ldm.conditioner.null_tokens
    assert null == (2, 3, *[0] * 12) == tuple(model.tokenizer([""])[0].tolist())
    assert pictures_differ(model, prompts=("a red apple", "two green pears"))

    # What is there stays: other captions do not change it.
    (Path(captioned.partition(":")[2]) / "0.txt").write_text("zebras zebras zebras")
    moved = tmp_path / "elsewhere"
    shutil.move(workdir, moved)
    caption_vocabulary.prepare(config, build_data.source(config), moved)
    assert (moved / "tokenizer/vocab.txt").read_text().split() == words
    again = loading.load(moved).tokenizer
    np.testing.assert_array_equal(again(CAPTIONS), model.tokenizer(CAPTIONS))


def test_captions_come_from_a_jsonl_file_too(captioned, tmp_path):
    folder = Path(captioned.partition(":")[2])
    lines = []
    for path in sorted(folder.glob("*.txt")):
        row = {"file_name": f"{path.stem}.png", "text": path.read_text()}
        lines.append(json.dumps(row))
        path.unlink()
    (folder / "captions.jsonl").write_text("\n".join(lines))
    config = tiny_ldm.get_config("kl")
    config.data.source = captioned
    config.tokenizer = conditioners.own_tokenizer(vocab_size=900, max_length=14)
    caption_vocabulary.prepare(config, build_data.source(config), tmp_path)
    tokenizer = build_conditioner.tokenizer(config, tmp_path)
    assert tokenizer is not None and tokenizer(["red apple"])[0, 1] > 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 10}, "tokenizer.vocab_size is 10, too small"),
        ({"path": ""}, "holds no wordpiece vocabulary"),
    ],
)
def test_a_vocabulary_that_cannot_be_made_is_refused(
    captioned, tmp_path, change, message
):
    config = own_words(captioned, tmp_path / "run")
    config.tokenizer.update(change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run.train(config, tmp_path / "run", devices=jax.devices()[:1])


def layout_config(source: str, workdir: Path):
    config = config_for(source, workdir)
    config.tokenizer = conditioners.layout_tokenizer(max_objects=4)
    config.data.update({"crop": "random", "flip_rate": 0.5})
    return config


def test_a_layout_model_trains_on_composed_scenes(tmp_path):
    model = train(layout_config("emoji_scenes", tmp_path / "run"), tmp_path / "run")
    assert model.class_names[2] == "Food & Drink"
    null = model.ldm.conditioner.null_tokens
    assert null == (899,) * 12 + (0, 899)
    layouts = []
    for name in ("Food & Drink", "Objects"):
        path = tmp_path / "layout.json"
        path.write_text(json.dumps([{"class": name, "box": [0, 0.25, 0.5, 0.75]}]))
        layouts.append(read_layout(path, model.class_names))
    assert pictures_differ(model, layouts=layouts)
