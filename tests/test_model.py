"""`Model.sample`: what compiles, what an image depends on, what is refused."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict
from tiny_latent_diffusion import (
    tiny_batch,
    tiny_class_conditioner,
    tiny_model,
    tiny_params,
)

from ldm_jax import sampling_inputs as inputs
from ldm_jax.conditioners import Concat, Inpainting
from ldm_jax.guidance import autoguidance
from ldm_jax.model import Model
from ldm_jax.nn.conditioning import Conditioning
from ldm_jax.samplers import GRIDS, SAMPLERS

SECTION = {
    "name": "ddim",
    "num_steps": 4,
    "grid": "trailing",
    "final": "clean",
    "eta": 0.0,
    "guidance_scale": 1.0,
    "guidance_rescale": 0.0,
    "guidance_interval": (0.0, 1.0),
}


class TinyText(nn.Module):
    """A table of 50 words, mean over the text."""

    fields = ("tokens",)

    def setup(self):
        self.table = nn.Embed(50, 8)

    def __call__(self, batch, *, train=False):
        return Conditioning(tokens=self.table(batch["tokens"]))

    def null(self, batch_size):
        return Conditioning(tokens=self.table(jnp.zeros((batch_size, 6), jnp.int32)))


def tiny_tokenizer(texts):
    """Six characters as numbers; the empty text is zeros."""
    codes = [[ord(c) % 49 + 1 for c in text[:6]] for text in texts]
    return np.array([row + [0] * (6 - len(row)) for row in codes], np.int32)


def model_of(conditioner, batch, **attributes):
    ldm = tiny_model(conditioner=conditioner)
    params, frozen = tiny_params(ldm, batch)
    return Model(
        config=ConfigDict({"sampler": SECTION, "data": {"image_size": 8}}),
        ldm=ldm,
        params={**frozen, **params, "latent_scale": jnp.float32(0.8)},
        **attributes,
    )


@pytest.fixture(scope="module")
def classes():
    return model_of(tiny_class_conditioner(), tiny_batch(), class_names=tuple("abcde"))


@pytest.fixture(scope="module")
def text():
    batch = {"image": tiny_batch()["image"], "tokens": jnp.zeros((4, 6), jnp.int32)}
    return model_of(TinyText(), batch, tokenizer=tiny_tokenizer)


def compilations(model):
    return sum(program._cache_size() for program in model._programs.values())


def test_steps_scales_eta_seed_and_prompts_compile_nothing(text):
    first = text.sample(
        prompts=["a dog"] * 2, steps=30, guidance_scale=3.0, eta=0.0, batch_size=2
    )
    assert first.shape == (2, 8, 8, 3) and first.dtype == np.uint8
    before = compilations(text)
    for steps, scale, eta, seed, prompt in [
        (31, 3.0, 0.0, 0, "a dog"),
        (50, 7.5, 1.0, 1, "a red apple"),
        (1, 2.0, 0.5, 2, ""),
    ]:
        other = text.sample(
            prompts=[prompt] * 2,
            steps=steps,
            guidance_scale=scale,
            guidance_rescale=0.3,
            guidance_interval=(0.1, 0.9),
            eta=eta,
            seed=seed,
            batch_size=2,
            grid="karras",
        )
        assert np.any(other != first)
    assert compilations(text) == before
    text.sample(prompts=["a dog"] * 2, steps=65, guidance_scale=3.0, batch_size=2)
    assert compilations(text) == before + 1  # the next bucket


def test_strength_compiles_nothing_and_zero_gives_the_picture_back(classes):
    image = np.asarray(classes.sample(1, seed=5))
    ways = [0.1, 0.5, 0.77, 1.0]
    draw = lambda strength: classes.sample(
        1, init_image=image, strength=strength, steps=20
    )
    back = draw(0.0)
    before = compilations(classes)
    varied = [draw(strength) for strength in ways[:3]]
    assert compilations(classes) == before
    expected = classes.decode(classes.encode(image))
    assert np.abs(back.astype(int) - expected).max() <= 1
    distance = [np.abs(v.astype(int) - expected).mean() for v in varied]
    assert 0 < distance[0] < distance[-1]


@pytest.mark.parametrize("sampler,options", [("ddim", {"eta": 1.0}), ("ddpm", {})])
def test_image_k_is_the_same_to_the_bit_in_batches_padded_alike(
    classes, sampler, options
):
    """Same program, same padding: only the number of pictures asked for differs."""
    settings = {"sampler": sampler, "class_labels": [2], "seed": 3, **options}
    draw = lambda n: classes.sample(n, batch_size=4, guidance_scale=2.0, **settings)
    sixteen, four, one = draw(16), draw(4), draw(1)
    before = compilations(classes)
    np.testing.assert_array_equal(sixteen[:4], four)
    np.testing.assert_array_equal(sixteen[:1], one)
    assert compilations(classes) == before
    assert len(np.unique(sixteen.reshape(16, -1), axis=0)) == 16


def test_all_devices_share_a_batch_and_draw_the_same_images(classes):
    assert jax.device_count() == 8
    settings = {"eta": 1.0, "seed": 3, "guidance_scale": 2.0, "class_labels": [1, 4]}
    together = classes.sample(8, batch_size=8, **settings)
    alone = classes.sample(8, batch_size=4, **settings)
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_a_negative_prompt_moves_the_picture_and_none_is_the_null_condition(text):
    draw = lambda **settings: text.sample(
        prompts=["a dog"], guidance_scale=5.0, **settings
    )
    plain = draw()
    np.testing.assert_array_equal(draw(negative_prompt=""), plain)
    assert np.any(draw(negative_prompt="blur") != plain)


def test_outside_the_hole_the_picture_is_kept(classes):
    image = np.asarray(classes.sample(1, seed=5))
    hole = np.zeros((8, 8), bool)
    hole[2:5, 3:6] = True
    filled = classes.sample(2, init_image=image, hole=hole, seed=1)
    assert filled.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(filled[:, ~hole], np.repeat(image[:, ~hole], 2, 0))
    assert np.any(filled[0][hole] != filled[1][hole])


@pytest.mark.parametrize("order,value", [("latent_first", -1), ("mask_first", 0)])
def test_a_model_that_fills_holes_sees_the_rest_of_the_picture(order, value):
    batch = tiny_batch() | {
        "masked_image": jnp.zeros((4, 8, 8, 3)),
        "hole": jnp.zeros((4, 8, 8, 1)),
    }
    model = model_of(Inpainting(order), batch)
    image = np.full((8, 8, 3), 40, np.uint8)
    hole = np.zeros((8, 8), bool)
    hole[:4, :4] = True
    fields = inputs.hole_fields(model, image[None], hole[None, ..., None])
    assert np.all(fields["masked_image"][0][hole] == value)
    np.testing.assert_allclose(fields["masked_image"][0][~hole], 40 / 127.5 - 1)
    np.testing.assert_array_equal(fields["hole"][0, ..., 0], hole)
    filled = model.sample(2, init_image=image, hole=hole)
    np.testing.assert_array_equal(filled[:, ~hole], 40)
    assert np.any(
        filled[:, hole] != model.sample(2, init_image=image + 99, hole=hole)[:, hole]
    )
    with pytest.raises(ValueError, match="fills holes: give a hole"):
        model.sample(init_image=image)
    with pytest.raises(ValueError, match="fills holes: give an init_image"):
        model.sample()


def test_a_model_of_small_pictures_needs_one():
    batch = tiny_batch() | {"low_res": jnp.zeros((4, 4, 4, 3))}
    model = model_of(Concat("low_res"), batch)
    draw = lambda x: model.sample(conditions={"low_res": np.full((1, 4, 4, 3), x)})
    assert np.any(draw(-1.0) != draw(1.0))
    with pytest.raises(ValueError, match="needs low_res"):
        model.sample()


def test_previews_follow_the_chosen_steps(classes):
    pixels, previews = classes.sample_with_previews(
        3, preview_steps=[0, 3], batch_size=2, steps=4
    )
    assert previews.shape == (2, *pixels.shape)
    np.testing.assert_array_equal(previews[1], pixels)  # the last step leads to x0
    assert np.any(previews[0] != pixels)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_and_the_pure_function_agrees(classes, name):
    pixels = classes.sample(2, sampler=name, steps=3, seed=0, batch_size=2)
    sample_fn = classes.make_sample_fn(steps=3, sampler=name, batch_size=2)
    labels = {"class_label": jnp.arange(2)}
    image = jax.jit(sample_fn)(classes.params, jax.random.key(0), labels)
    expected = (np.asarray(image) + 1) * 127.5
    assert np.abs(pixels - expected).max() <= 1


def test_a_wrapper_of_one_s_own_and_a_second_model_guide(classes):
    """Autoguidance by weights that are passed along; scale 1 is no guidance."""
    weak = jax.tree.map(lambda p: 0.5 * p, classes.params["backbone"])
    labels = {"class_label": jnp.arange(2)}

    def draw(scale):
        def wrap(denoise_fn, params, cond):
            weak_fn = classes.ldm.denoise_fn({"backbone": params["weak"]}, cond)
            return autoguidance(denoise_fn, weak_fn, scale)

        sample_fn = classes.make_sample_fn(steps=3, batch_size=2, wrap=wrap)
        params = classes.params | {"weak": weak}
        return jax.jit(sample_fn)(params, jax.random.key(0), labels)

    plain = classes.make_sample_fn(steps=3, batch_size=2)
    expected = plain(classes.params, jax.random.key(0), labels)
    np.testing.assert_allclose(draw(1.0), expected, atol=1e-4)
    assert np.abs(draw(3.0) - expected).max() > 1e-3


MISTAKES = [
    ({"num_samples": 0}, "ask for 1 or more"),
    ({"steps": 0}, "steps are impossible"),
    ({"sampler": "dim"}, "choose one of"),
    ({"grid": "karas"}, "choose one of"),
    ({"sampler": "plms", "eta": 0.5}, "has no eta"),
    ({"eta": 2.0}, "from 0 to 1"),
    ({"strength": 0.5}, "give an init_image"),
    ({"hole": np.ones((8, 8), bool)}, "give an init_image"),
    ({"init_image": np.zeros((9, 8, 3), np.uint8), "height": 8}, "9x8 pixels but 8x8"),
    ({"init_image": np.zeros((8, 3), np.uint8)}, "one picture or a batch"),
    (
        {"init_image": np.zeros((8, 8, 3), np.uint8), "hole": np.ones((4, 8), bool)},
        "hole has 4x8 pixels but 8x8",
    ),
    ({"resamplings": 2}, "give an init_image and a hole"),
    ({"tile_size": 3}, "tile_size=3 .* a multiple of 2"),
    ({"tile_size": 4, "tile_overlap": 4}, "tile_overlap=4"),
    ({"layouts": []}, "takes no layouts"),
    ({"height": 9}, "a multiple of 2"),
    ({"prompts": ["x"]}, "takes no text"),
    ({"class_labels": ["zebra"]}, "a name of: a, b"),
    ({"conditions": {"low_res": np.zeros(3)}}, "takes no low_res"),
]


@pytest.mark.parametrize("settings,message", MISTAKES)
def test_a_mistake_is_one_sentence(classes, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        classes.sample(**settings)
    assert "\n" not in str(error.value)


def test_the_help_of_sample_py_names_every_sampler_and_grid():
    """As text, for --help must not import jax."""
    tree = ast.parse((Path(__file__).parents[1] / "sample.py").read_text())
    constants = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    assert set(constants["SAMPLERS"].split(", ")) == set(SAMPLERS)
    assert set(constants["GRIDS"].split(", ")) == set(GRIDS)
