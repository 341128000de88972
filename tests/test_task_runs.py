"""Every kind of condition from a folder to an optimisation step, and what it changes."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.parts import conditioners
from configs.tiny import autoencoder as tiny_autoencoder
from configs.tiny import ldm as tiny_ldm
from ldm_jax import build, build_data, loading, plan, run
from ldm_jax import config as config_lib
from ldm_jax.conditioners.size_and_crop import default_geometry
from ldm_jax.data.pipeline import eval_batches
from tests.published_models import config_of, narrow
from tests.test_conditioned_runs import short, write_first_stage, write_workdir
from tests.test_published_training import random_like

CLASSES = ("boat", "pear")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Six pictures in two classes, with captions, label maps and boxes."""
    root = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(6):
        name = f"{CLASSES[index % 2]}/{index}"
        height, width = 32 + 4 * index, 52 - 2 * index
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        labels = random.integers(0, 3, (height, width), np.uint8)
        for folder, array in (("pictures", pixels), ("labels", labels)):
            path = root / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
        (root / "pictures" / f"{name}.txt").write_text(f"a {CLASSES[index % 2]}")
        images.append(
            {"id": index, "file_name": f"{name}.png", "width": width, "height": height}
        )
        boxes = [[0, 0, 20, 20], [width - 15, height - 15, 15, 15]]
        annotations += [
            {"id": 9, "image_id": index, "category_id": 7 + i, "bbox": box}
            for i, box in enumerate(boxes)
        ]
    categories = [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}]
    tables = {"images": images, "annotations": annotations, "categories": categories}
    (root / "boxes.json").write_text(json.dumps(tables))
    return root


# Config -> what its data section needs, and the conditions that it must read.
FIRST_STAGES = {"inpaint_f4": "vq_f4_noattn", "rdm_768": "kl_f16"}
TASKS = {
    "imagenet_f4": ({}, "class_label"),
    "text2img_f4": ({}, "tokens"),
    "sr_bsr_f4": ({}, "low_res"),
    "inpaint_f4": ({}, "hole"),
    "semantic_landscapes_f4": ({"segmentation": "labels"}, "segmentation"),
    "layout_openimages_f4": ({"layout": "boxes.json"}, "tokens"),
    "sd_v1_inpaint": ({}, "masked_image"),
}


def task_config(name: str, world: Path):
    config = short(name, world / "pictures")
    data, _ = TASKS[name]
    config.data.update({key: str(world / value) for key, value in data.items()})
    if name == "imagenet_f4":
        config.conditioner.num_classes = 2
    config.data.num_validation = 2
    return config


@pytest.mark.parametrize("name", sorted(TASKS))
def test_batches_hold_what_the_published_models_read(name, world):
    """Of the shapes and types that the step is compiled for, the same every time."""
    config = task_config(name, world)
    conditioner = build.experiment(config).ldm.conditioner
    source, transform = build_data.data(config, conditioner)
    expected = build.example_batch(config, 2, conditioner)
    assert TASKS[name][1] in expected
    (first, *_), (again, *_) = (
        list(eval_batches(source, transform, batch_size=2)) for _ in range(2)
    )
    for field, shape in expected.items():
        assert (first[field].shape, first[field].dtype) == (shape.shape, shape.dtype)
        np.testing.assert_array_equal(first[field], again[field])
    assert not transform.for_evaluation().square.flip_rate


def scalars(workdir: Path, name: str) -> list[float]:
    """A column of metrics.jsonl."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row[name] for row in rows if name in row]


@pytest.mark.slow  # 15 s each; in `make test`: the hybrid below, texts, layouts, neighbours
@pytest.mark.parametrize(
    "name",
    sorted(set(TASKS) - {"sd_v1_inpaint"}),  # which needs a released text encoder
)
def test_a_published_task_trains_and_validates(name, world, tmp_path):
    config = task_config(name, world)
    config.backbone.update({"channel_mult": (1,), "attention_resolutions": ()})
    workdir = tmp_path / "run"
    write_first_stage(workdir / "autoencoder", config, FIRST_STAGES.get(name, "vq_f4"))
    config.autoencoder.checkpoint = "autoencoder"
    config.train.update({"num_steps": 1, "evaluate_every": 1})
    run.train(config, workdir, devices=jax.devices()[:1])
    (loss,) = scalars(workdir, "val/loss")
    assert np.isfinite(loss)
    model = loading.load(workdir)
    assert TASKS[name][1] in model.conditioning_fields and model.step == 1


def hybrid_config(world: Path, workdir: Path):
    """A class as a token, a small picture beside the latent, size and crop as a vector."""
    first_stage = tiny_autoencoder.get_config("kl")
    image = jnp.zeros((1, 32, 32, 3))
    key = jax.random.key(0)
    module = build.experiment(first_stage).autoencoder
    params = jax.eval_shape(module.init, key, image, key)["params"]
    params = {"autoencoder": random_like(params)}
    write_workdir(workdir / "autoencoder", first_stage, params)

    config = tiny_ldm.get_config("kl")
    config.autoencoder.checkpoint = "autoencoder"
    config.backbone.update(
        {
            "channel_mult": (1,),
            "attention_resolutions": (),
            "attention": "transformer",
        }
    )
    config.conditioner = conditioners.compose(
        trainable=True,
        label=conditioners.class_label(
            num_classes=2, embed_dim=8, has_null=True, drop_rate=0.5
        ),
        low_res=conditioners.concat("low_res"),
        geometry=conditioners.size_and_crop(),
    )
    config.data.update(
        {"source": f"folder:{world / 'pictures'}", "degradation": "bicubic"}
    )
    config.data.update({"crop": "random", "num_validation": 4})
    config.train.update(
        {"num_steps": 2, "batch_size": 4, "preview_every": 2, "evaluate_every": 2}
    )
    config_lib.check(config)
    return config


@pytest.mark.slow
def test_a_hybrid_of_tokens_maps_and_vectors_trains_shows_and_samples(world, tmp_path):
    config = hybrid_config(world, tmp_path)
    run.train(config, tmp_path, devices=jax.devices()[:1])
    assert np.isfinite(scalars(tmp_path, "val/loss_ema")).all()
    with Image.open(tmp_path / "previews/step_2.png") as preview:
        rows = (preview.height - 2) / (32 + 2)
    assert rows == 4  # inputs, reconstructions, small pictures, samples

    model = loading.load(tmp_path)
    # Parts come in the order of their names, before and after they are written as JSON.
    assert model.conditioning_fields == ("geometry", "class_label", "low_res")
    assert model.class_names == CLASSES
    # Random parameters: two steps from zero are rounded away.
    model = dataclasses.replace(model, params=random_like(model.params))
    low_res = np.zeros((1, 16, 16, 3), np.float32)

    def sample(label="pear", low_res=low_res, geometry=(32, 32, 0, 0, 32, 32)):
        conditions = {"low_res": low_res, "geometry": np.array([geometry], np.int32)}
        return model.sample(class_labels=[label], conditions=conditions, steps=2)

    plain = sample()
    np.testing.assert_array_equal(plain, sample(label="1"))
    default = {"conditions": {"low_res": low_res}, "steps": 2}
    np.testing.assert_array_equal(plain, model.sample(class_labels=[1], **default))
    assert default_geometry(32, 32).tolist() == [32, 32, 0, 0, 32, 32]
    for change in (
        {"label": "boat"},
        {"low_res": low_res + 1},
        {"geometry": (320, 320, 0, 90, 32, 32)},
    ):
        assert (sample(**change) != plain).any(), change


def test_an_index_that_is_not_there_is_named(world, tmp_path):
    config = short("rdm_768", world / "pictures")
    config.data.neighbors = "index"
    with pytest.raises((ValueError, OSError), match="index") as caught:
        build_data.data(config, build.experiment(config).ldm.conditioner, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_plan_of_every_task_is_worked_out_without_data(name):
    config = narrow(config_of(name))
    config.train.batch_size = 8  # one for each device
    text = plan.describe(config)
    assert "FLOPs of a step" in text and "trained: denoiser" in text
