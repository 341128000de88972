"""Drawing step by step: the same pictures, shown on the way, and stopped by whoever watches."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from tiny_latent_diffusion import tiny_batch, tiny_class_conditioner

from ldm_jax import stepwise
from tests.test_model import model_of


@pytest.fixture(scope="module")
def model():
    return model_of(tiny_class_conditioner(), tiny_batch(), class_names=tuple("abcde"))


@pytest.fixture(scope="module")
def watched(model):
    """The same model step by step, and the list of what was reported."""
    seen = []
    make_program = partial(stepwise.make_program, report=seen.append)
    return dataclasses.replace(model, make_program=make_program), seen


PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
HOLE = np.arange(64).reshape(8, 8) % 8 > 3
WAYS = {
    "plain": {"sampler": "ddim", "eta": 1.0},
    "guided": {"guidance_scale": 3.0, "sampler": "dpmpp_2m"},
    "from a picture": {"init_image": PICTURE, "strength": 0.5, "sampler": "plms"},
    "into a hole": {"init_image": PICTURE, "hole": HOLE, "resamplings": 1},
}


@pytest.mark.parametrize("way", WAYS)
def test_step_by_step_draws_the_same_pictures(model, watched, way):
    stepping, seen = watched
    settings = {"class_labels": [1, 3], "steps": 6, "seed": 4, **WAYS[way]}
    whole, previews = model.sample_with_previews(preview_steps=(2,), **settings)
    seen.clear()
    drawn = stepping.sample(**settings)
    assert np.abs(drawn.astype(int) - whole).max() <= 1
    num_steps = seen[0].num_steps
    assert [p.step for p in seen] == [*range(1, num_steps + 1)]
    assert num_steps == (3 if way == "from a picture" else 6)
    believed = np.asarray(seen[2].believed() + 1) * 127.5
    assert np.abs(believed - previews[0]).max() <= 1.5


def test_nothing_that_sliders_turn_compiles_anew(watched):
    stepping, _ = watched
    settings = {"class_labels": [0], "guidance_scale": 2.0, "sampler": "ddim"}
    stepping.sample(steps=3, **settings)
    compiled = []

    def listen(event, *_, **__):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        changed = settings | {"class_labels": [4], "guidance_scale": 5.5}
        stepping.sample(steps=7, seed=9, eta=0.7, grid="karras", **changed)
        assert not compiled
        stepping.sample(steps=3, **settings | {"sampler": "heun"})
        assert compiled  # or the listener hears nothing
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_an_exception_of_the_watcher_ends_the_drawing(model):
    class StopHere(Exception):
        pass

    def report(progress):
        if progress.step == 2:
            raise StopHere

    stopping = dataclasses.replace(
        model, make_program=partial(stepwise.make_program, report=report)
    )
    with pytest.raises(StopHere):
        stopping.sample(1, steps=50)
