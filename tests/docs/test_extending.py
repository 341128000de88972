"""docs/extending.md, run from the page."""

import json
from contextlib import ExitStack, chdir
from functools import partial
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from documented_commands import blocks

from ldm_jax import build_conditioner, run
from ldm_jax.backbones import BACKBONES
from ldm_jax.conditioners import CONDITIONERS
from ldm_jax.data.datasets import DATASETS
from ldm_jax.samplers import SAMPLERS

PAGE = Path(__file__).parents[2] / "docs/extending.md"
TABLES = (SAMPLERS, DATASETS, CONDITIONERS, BACKBONES)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The names that the page's code leaves, the working folder and the tables after it."""
    folder = tmp_path_factory.mktemp("page")
    names: dict = {"__name__": "page"}
    with ExitStack() as restored:
        for table in TABLES:
            restored.enter_context(mock.patch.dict(table))
        restored.enter_context(chdir(folder))
        train = partial(
            run.train, devices=jax.devices()[:1]
        )  # of eight: slow to compile
        restored.enter_context(mock.patch.object(run, "train", train))
        for line, language, body in blocks(PAGE.read_text("utf-8")):
            if language == "python":
                code = "\n" * (line - 1) + body  # so that errors name the page's lines
                exec(compile(code, PAGE, "exec"), names)  # noqa: S102
        yield names, folder


def test_the_examples_make_pictures_of_what_is_asked(page):
    names, _ = page
    pixels = names["pixels"]
    assert pixels.shape == (2, 32, 32, 3)
    assert np.ptp(pixels) > 0
    differ = names["colours"][::-1]
    other = names["model"].sample(2, conditions={"colour": differ}, **names["how"])
    assert (other != pixels).any()


def test_the_new_parts_learn(page):
    _, folder = page
    lines = (folder / "runs/extending/model/metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
    assert np.mean(losses[-5:]) < 0.97 * np.mean(losses[:5])


def test_a_conditioner_without_shapes_is_told(page):
    names, _ = page
    shapes = build_conditioner.example_fields(names["Colour"](embed_dim=4), 2, 32, 16)
    assert shapes["colour"].shape == (2, 3)

    class Mute:
        field = "colour"

    with pytest.raises(TypeError, match="Mute"):
        build_conditioner.example_fields(Mute(), 2, 32, 16)
