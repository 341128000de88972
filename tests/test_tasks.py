"""`make tasks` in short: each task's config on its real data, with a tiny denoiser."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import ldm_jax
from ldm_jax import build, build_data, caption_vocabulary, run
from ldm_jax import config as config_lib
from ldm_jax.data.layouts import Layout
from ldm_jax.features import networks
from ldm_jax.retrieving import build_index
from ldm_jax.training import checkpoints
from ldm_jax.training.state import TrainState
from tests.evaluation.tiny_network import tiny_network
from tests.published_models import config_of, narrow
from tests.test_conditioned_runs import write_first_stage
from tests.test_published_training import random_like
from tools.tasks import __main__ as command
from tools.tasks import drawing, losses, measuring, statistics
from tools.tasks.held_out import HeldOut, draw, held_out
from tools.tasks.statistics import Categories
from tools.tasks.table import TASKS

ROOT = Path(__file__).parents[1]
WIDTH = 64  # of an embedding; so many that none is zero
SETTINGS = measuring.Settings(num_pictures=3, steps=2)


@pytest.fixture(scope="module", autouse=True)
def tiny_features():
    """The network that tells categories and finds neighbours, with random weights."""
    with pytest.MonkeyPatch.context() as patch:
        name = "efficientnet_lite0"
        patch.setitem(networks.NETWORKS, name, lambda path: tiny_network(name, WIDTH))
        yield


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """An index of emoji64."""
    folder = tmp_path_factory.mktemp("indices") / "emoji"
    build_index("emoji64", "efficientnet_lite0", folder, image_size=16)
    return folder


def tiny(name: str, index: Path):
    """A task's config with a denoiser of a few thousand parameters, for eight steps.

    Its middle alone has a transformer: compiling is most of the time.
    """
    config = narrow(config_of(f"emoji.{name}"))
    config.backbone.update({"channel_mult": (1,), "attention_resolutions": ()})
    config.optimizer.schedule = {"name": "constant"}
    config.latent.update({"cache": False, "scale_by_std": False})
    config.data.num_validation = 24
    config.train.update(
        {
            "num_steps": 24,
            "batch_size": 8,
            "learning_rate": 1e-2,
            "evaluate_every": 4,
            "ema_decay": 0.0,
        }
    )
    classes = {"class_label": 8, "semantic": 9}
    if name in classes:
        config.conditioner.num_classes = classes[name]
    if name == "retrieval":
        config.conditioner.embed_dim = WIDTH
        config.data.neighbors = str(index)
    config_lib.check(config)
    return config


@pytest.fixture(scope="module")
def moments():
    """Pictures [8, 16, 16, 3] to moments, by a first stage of random parameters."""
    autoencoder = build.autoencoder(tiny("text", Path()))
    image, key = jnp.zeros((8, 16, 16, 3)), jax.random.key(0)
    shapes = jax.eval_shape(autoencoder.init, key, image, key)
    params = random_like(shapes["params"])

    @jax.jit
    def encode(image):
        return autoencoder.apply({"params": params}, image, method="encode").moments

    return params, encode


def random_state(config, experiment):
    """A training state of small random parameters, without compiling what draws them."""
    shapes = jax.eval_shape(run.create_fn(config, experiment), jax.random.key(0))
    params = random_like(shapes.params)
    if "conditioner" in params:  # tables of unit variance: what is said is heard
        params["conditioner"] = jax.tree.map(lambda x: 5 * x, params["conditioner"])
    momenta = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes.opt_state)
    scale = {"latent_scale": np.float32(1)}
    return TrainState(jnp.int32(0), params, None, momenta, scale)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_learns_from_its_data_and_reads_its_condition(
    name, index, moments, tmp_path
):
    """Eight pictures are learnt; with one another's conditions the loss is another."""
    config = tiny(name, index)
    experiment = build.experiment(config)
    conditioner = experiment.ldm.conditioner
    caption_vocabulary.prepare(config, build_data.source(config), tmp_path)
    source, transform = build_data.data(config, conditioner, tmp_path)
    spread = np.linspace(0, len(source) - 1, 8).astype(int)
    rows = [transform(source[int(i)], np.random.default_rng(i)) for i in spread]
    fields = conditioner.fields
    batch = {field: np.stack([row[field] for row in rows]) for field in fields}
    params, encode = moments
    latents = {"moments": encode(np.stack([row["image"] for row in rows]))}
    state = random_state(config, experiment)
    step = jax.jit(run.step_fn(config, experiment, jax.random.key(1)))

    def stepped(state, batch):
        """The same step number, and so the same noise, each time."""
        after, metrics = step(state, {"autoencoder": params}, latents | batch)
        return after.replace(step=np.int32(0)), float(metrics["loss"])

    history = []
    for _ in range(12):
        state, loss = stepped(state, batch)
        history.append(loss)
    assert history[-1] < 0.9 * history[0]
    of_others = {field: np.roll(value, 1, axis=0) for field, value in batch.items()}
    assert stepped(state, of_others)[1] != stepped(state, batch)[1]


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory, index):
    """`(name, write) -> workdir` that `write(config, workdir)` filled; each once."""
    root = tmp_path_factory.mktemp("runs")
    write_first_stage(root / "first_stage", tiny("text", index), "emoji_kl_f4")

    def workdir(name: str, write) -> Path:
        folder = root / write.__name__ / name
        if not folder.exists():
            config = tiny(name, index)
            config.autoencoder.checkpoint = str(root / "first_stage")
            write(config, folder)
        return folder

    return workdir


def trained(config, workdir: Path) -> None:
    """A short training."""
    run.train(config, workdir, devices=jax.devices()[:1])


def untrained(config, workdir: Path) -> None:
    """A model of random parameters, so large that what it is told shows in grey levels."""
    caption_vocabulary.prepare(config, build_data.source(config), workdir)
    state = random_state(config, build.experiment(config))
    denoiser = jax.tree.map(lambda x: 4 * x, state.params["backbone"])
    state = state.replace(params=state.params | {"backbone": denoiser})
    with checkpoints.open_checkpoints(workdir) as manager:
        checkpoints.save(manager, state)
        checkpoints.wait(manager)
    config_lib.save(config, workdir / "config.json")


def check_measured(name: str, workdir, index: Path, picture: Path) -> float:
    """That a task's statistics are there; how far its condition changes pictures."""
    measured, change = measuring.measure(
        TASKS[name],
        workdir(name),
        workdir("unconditional"),
        Categories(index),
        picture,
        SETTINGS,
    )
    assert measured.keys() == TASKS[name].statistics.keys()
    for values in measured.values():
        assert np.isfinite(list(values.values())).all()
        assert ("scale 3" in values) == TASKS[name].is_guided
    width, height = Image.open(picture).size
    assert height % 19 == 0 and height >= 4 * 19 and width > drawing.MARGIN
    return change


MEASURED_OFTEN = "semantic"
MEASURED = [
    pytest.param(name, marks=() if name == MEASURED_OFTEN else pytest.mark.slow)
    for name in TASKS
]


@pytest.mark.parametrize("name", MEASURED)
def test_random_parameters_draw_another_picture_for_another_condition(
    name, workdirs, index, tmp_path
):
    made = partial(workdirs, write=untrained)
    assert check_measured(name, made, index, tmp_path / "grid.png") > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_task_trains_and_is_measured(name, workdirs, index, tmp_path):
    """Its condition is not heard after so few steps: `make tasks` tells that."""
    made = partial(workdirs, write=trained)
    lines = (made(name) / "metrics.jsonl").read_text().splitlines()
    held_out_losses = [
        row["val/loss"] for row in map(json.loads, lines) if "val/loss" in row
    ]
    assert held_out_losses[-1] < held_out_losses[0]  # steps 24 and 4
    check_measured(name, made, index, tmp_path / "grid.png")
    if TASKS[name].is_guided:
        own = losses.with_and_without(made(name), count=4)
        assert len(set(own.values())) == 3 and np.isfinite(list(own.values())).all()
    pictures = held_out(ldm_jax.load(made(name)), made(name), 1)
    for flag in TASKS[name].flags(pictures, tmp_path):
        value = flag.partition("=")[2]
        assert value and (not value.startswith("/") or Path(value).is_file())


@pytest.mark.slow
def test_sample_py_draws_what_the_model_draws_of_the_same_held_out_condition(
    workdirs, tmp_path
):
    folder = workdirs("semantic", untrained)
    pictures = held_out(ldm_jax.load(folder), folder, 1)
    flags = TASKS["semantic"].flags(pictures, tmp_path)
    outdir = tmp_path / "samples"
    result = subprocess.run(
        [sys.executable, "sample.py", f"--checkpoint={folder}", *flags,
         "--num_samples=1", "--batch_size=16", "--steps=2", f"--outdir={outdir}"],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    drawn = np.asarray(Image.open(outdir / "00000.png")).astype(int)
    expected = draw(ldm_jax.load(folder), pictures, steps=2)[0]
    assert np.abs(drawn - expected).max() <= 1


def scene(**fields) -> HeldOut:
    """One white picture of 8x8 whose left half is to be drawn, as a half-dark box."""
    pixels = np.full((1, 8, 8, 3), 255, np.uint8)
    pixels[:, :, :4] = 55
    layout = Layout(np.array([[0, 0, 0.5, 1]]), np.array([0]))
    segmentation = np.ones((1, 8, 8), np.int32)
    segmentation[:, :, :4] = 0
    return HeldOut(
        pixels, {"segmentation": segmentation} | fields, [{"layout": layout}], ("a",)
    )


def test_statistics_tell_what_follows_a_condition_from_what_does_not():
    given = scene()
    other = given.pixels[:, :, ::-1]
    assert statistics.ink_where_boxes_are(given.pixels, given) == 1
    assert statistics.ink_where_boxes_are(other, given) == 0
    assert statistics.drawn_overlap(given.pixels, given) == 1
    assert statistics.drawn_overlap(other, given) == 0
    everywhere = np.full_like(given.pixels, 55)
    assert statistics.drawn_overlap(everywhere, given) == 0.5
    assert statistics.ink_where_boxes_are(everywhere, given) == 0.5
    np.testing.assert_allclose(statistics.ink_colour(given.pixels), [[55] * 3])


def test_holes_are_measured_inside_alone():
    hole = np.zeros((1, 8, 8, 1), np.float32)
    hole[:, :, 2:6] = 1
    given = scene(hole=hole)
    filled = statistics.mean_filled(given)
    is_hole = hole[0, ..., 0] > 0
    np.testing.assert_array_equal(filled[0][~is_hole], given.pixels[0][~is_hole])
    np.testing.assert_array_equal(filled[0][is_hole], 155)
    # Half a hundred grey levels of 127.5 off, everywhere in the hole.
    expected = 20 * np.log10(255 / 100)
    assert statistics.hole_psnr(filled, given) == pytest.approx(expected, abs=1e-3)
    changed = given.pixels.copy()
    changed[:, :, 0] = 0
    assert statistics.difference(changed, given.pixels, hole[..., 0] > 0) == 0
    assert statistics.difference(changed, given.pixels) == pytest.approx(55 / 8)


def test_small_pictures_are_enlarged_to_the_size_of_the_real_ones():
    small = np.full((1, 2, 2, 3), -1, np.float32)
    given = scene(low_res=small)
    assert statistics.enlarged(given).shape == given.pixels.shape
    assert not statistics.enlarged(given).any()


def test_a_condition_that_lowers_no_loss_or_changes_nothing_is_told():
    task = TASKS["semantic"]
    good = {"loss": 0.5, "loss without": 0.7, "change": 3.0}
    assert command.is_used(task, good)
    assert not command.is_used(task, good | {"loss": 0.69})
    assert not command.is_used(task, good | {"change": 0.0})


def test_tables_hold_every_figure():
    row = {"loss": 0.5, "loss without": 0.625, "minutes": 2.0, "minutes without": 3.0}
    values = {"without": 0.1, "scale 1": 0.25, "first stage": 0.75, "bicubic": 0.5}
    row |= {"steps": 600, "statistics": {"overlap": values}, "change": 4.25}
    row["own losses"] = {"given": 0.5, "another's": 0.525, "null": 0.55}
    text = command.as_markdown({"semantic": row})
    assert (
        "| semantic | 600 | 0.5000 | 0.6250 | -20.0% | +5.0% / +10.0% | 2.0 + 3.0 |"
        in text
    )
    assert "| overlap | 0.1 | 0.25 |  | 0.75 | bicubic: 0.5 | 4.2 levels |" in text
