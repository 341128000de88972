"""sample.py: each kind of condition from its files to pictures of the right size."""

import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

import ldm_jax
import sample
from ldm_jax import build, retrieving
from ldm_jax import config as config_lib
from ldm_jax.picture_inputs import read_start
from ldm_jax.training import checkpoints
from ldm_jax.training.state import TrainState
from tests.published_models import config_of, narrow
from tests.test_conditioned_runs import write_first_stage
from tests.test_published_training import random_like

RANDOM = np.random.default_rng(0)


def workdir_of(folder, config, first_stage, class_names):
    """A run of random parameters beside its first stage."""
    (folder / "runs").mkdir()
    first_stage = write_first_stage(folder / "runs/ae", config, first_stage)
    config.autoencoder.checkpoint = str(first_stage)
    config.sampler.update({"num_steps": 1, "guidance_scale": 1.0})
    config.backbone.channel_mult = (1,)  # what takes long is compiling
    if "transformer_depth" in config.backbone:
        config.backbone.transformer_depth = 1
    shapes, _ = jax.eval_shape(build.experiment(config).init, jax.random.key(0))
    collections = {"latent_scale": jnp.float32(1)}
    state = TrainState(jnp.int32(0), random_like(shapes), None, {}, collections)
    workdir = folder / "runs/model"
    with checkpoints.open_checkpoints(workdir) as manager:
        checkpoints.save(manager, state, {"class_names": list(class_names)})
        checkpoints.wait(manager)
    config_lib.save(config, workdir / "config.json")
    return workdir


MODELS = {
    "sr": ("sr_bsr_f4", "vq_f4", ()),
    "inpaint": ("inpaint_f4", "vq_f4", ()),
    "semantic": ("semantic_landscapes_f4", "vq_f4", ()),
    "layout": ("layout_openimages_f4", "vq_f4", ("cat", "tree")),
    "neighbors": ("rdm_768", "kl_f16", ()),
}


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Made when asked for."""
    made = {}

    def get(name):
        if name not in made:
            file, *more = MODELS[name]
            config = narrow(config_of(file))
            made[name] = workdir_of(tmp_path_factory.mktemp(name), config, *more)
        return made[name]

    return get


@pytest.fixture(scope="module")
def load():
    """`ldm_jax.load` that keeps the models, and with them what is compiled."""
    return functools.cache(ldm_jax.load)


@pytest.fixture
def draw(workdirs, load, tmp_path, monkeypatch):
    """`draw(model, "--flag=...")`: the pictures and samples.json."""
    monkeypatch.setattr(ldm_jax, "load", load)

    def run(name, *arguments):
        saved = flagsaver.save_flag_values()
        outdir = tmp_path / "out"
        try:
            checkpoint = f"--checkpoint={workdirs(name)}"
            flags.FLAGS(["sample.py", checkpoint, f"--outdir={outdir}", *arguments])
            sample.main()
        finally:
            flagsaver.restore_flag_values(saved)
        paths = sorted(outdir.glob("0*.png"))
        pictures = [np.asarray(Image.open(path)) for path in paths]
        return pictures, json.loads((outdir / "samples.json").read_text())

    return run


def save_picture(path, *shape):
    Image.fromarray(RANDOM.integers(0, 256, (*shape, 3), np.uint8)).save(path)
    return path


def test_a_photo_of_any_size_becomes_four_times_as_large(draw, tmp_path):
    photo = save_picture(tmp_path / "a.png", 9, 13)  # larger than one tile
    (first,), record = draw("sr", f"--low_res={photo}")
    assert first.shape == (36, 52, 3)
    assert record["low_res"] == str(photo) and str(photo) in record["sha256"]
    (again,), same = draw("sr", f"--low_res={photo}")
    np.testing.assert_array_equal(again, first)
    assert same == record
    save_picture(photo, 9, 13)
    assert draw("sr", f"--low_res={photo}")[1]["sha256"] != record["sha256"]


def test_only_the_hole_of_a_photo_changes(draw, tmp_path):
    photo = save_picture(tmp_path / "a.png", 21, 18)
    mask = np.zeros((42, 36), np.uint8)  # of twice the size
    mask[20:, 10:] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    arguments = (f"--init_image={photo}", f"--mask={tmp_path / 'm.png'}")
    pictures, _ = draw("inpaint", *arguments, "--num_samples=2")
    hole, before = mask[::2, ::2] > 0, np.asarray(Image.open(photo))
    for picture in pictures:
        assert picture.shape == (21, 18, 3)
        np.testing.assert_array_equal(picture[~hole], before[~hole])
        assert np.any(picture[hole] != before[hole])


def test_a_label_map_of_any_size_is_painted(draw, tmp_path):
    labels = RANDOM.integers(0, 3, (17, 19)).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    (picture,), _ = draw("semantic", f"--segmentation={tmp_path / 'labels.png'}")
    assert picture.shape == (17, 19, 3)


def test_layouts_are_drawn_and_shown(draw, tmp_path):
    for name, label in (("a", "cat"), ("b", "1")):
        box = {"class": label, "box": [0.1, 0.2, 0.5, 0.5]}
        (tmp_path / f"{name}.json").write_text(json.dumps([box]))
    files = [f"--layout={tmp_path / name}.json" for name in "ab"]
    (one, other), record = draw("layout", *files)
    assert one.shape == (16, 16, 3) and np.any(one != other)
    assert len(record["sha256"]) == 2
    width, height = Image.open(tmp_path / "out/layout.png").size
    assert width == height > 512  # two pictures, on white and drawn


def test_queries_become_neighbors(draw, tmp_path, monkeypatch):
    asked = []

    def by_image(pixels, with_query):
        asked.append(("image", pixels.shape, with_query))
        return np.full((1, 2, 8), pixels.mean() / 255, np.float32)

    def by_text(texts, with_query):
        asked.append(("text", tuple(texts), with_query))
        return np.ones((len(texts), 2, 8), np.float32)

    def open_retriever(config, workdir, *, folder):
        asked.append((workdir.name, folder))
        return SimpleNamespace(by_image=by_image, by_text=by_text)

    monkeypatch.setattr(retrieving, "open_retriever", open_retriever)
    query = save_picture(tmp_path / "q.png", 5, 7)
    pictures, _ = draw("neighbors", f"--query_image={query}", "--prompt=a cat")
    assert len(pictures) == 2 and np.any(pictures[0] != pictures[1])
    assert asked == [
        ("model", ""),
        ("image", (1, 5, 7, 3), False),
        ("text", ("a cat",), False),
    ]
    with pytest.raises(ValueError, match="--query_image of sample.py"):
        draw("neighbors")


MISTAKES = [
    ("sr", ["--segmentation=x.png"], "this model takes --low_res$"),
    ("sr", ["--crop_corner=1,2"], "--crop_corner does not apply"),
    ("layout", ["--prompt=x"], "this model takes --layout$"),
    ("inpaint", ["--low_res=x.png"], "this model takes --init_image with --mask$"),
    ("neighbors", ["--layout=x"], "--prompt or --prompts or --query_image or"),
    ("sr", ["--low_res=/no/such.png"], "/no/such.png is not a file"),
    ("inpaint", ["--mask=x.png"], "--mask needs the picture to fill in"),
    ("inpaint", ["--init_image={picture}", "--mask={text}"], "cannot be read"),
    ("inpaint", ["--init_image={picture}", "--mask={black}"], "has nothing white"),
    ("semantic", ["--segmentation={picture}"], "one value a pixel|colour"),
    ("sr", ["--low_res={picture}", "--height=8"], "low_res has 24x16 pixels but 8x16"),
    ("sr", ["--low_res={picture}", "--original_size=1,2"], "takes --low_res$"),
]


@pytest.mark.parametrize(("name", "arguments", "says"), MISTAKES)
def test_a_mistake_is_one_sentence(draw, tmp_path, name, arguments, says):
    picture = save_picture(tmp_path / "picture.png", 6, 4)
    text, black = tmp_path / "text.png", tmp_path / "black.png"
    text.write_text("no picture")
    Image.new("L", (4, 6)).save(black)
    files = {"picture": picture, "text": text, "black": black}
    with pytest.raises((ValueError, OSError), match=says) as error:
        draw(name, *[argument.format(**files) for argument in arguments])
    assert "\n" not in str(error.value)


def test_a_picture_to_vary_keeps_its_proportions(tmp_path):

    photo = save_picture(tmp_path / "a.png", 30, 60)
    sizes = {"height": None, "width": None, "training_size": 16}
    assert read_start(photo, None, **sizes)["init_image"].shape == (16, 32, 3)
    given = read_start(photo, None, **sizes | {"height": 10})
    assert given["init_image"].shape == (10, 20, 3)
    given = read_start(photo, None, **sizes | {"height": 10, "width": 10})
    assert given["init_image"].shape == (10, 10, 3)
