"""`Model.sample` of any size: padding, tiles, holes, layouts, sizes and crops."""

import dataclasses
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict
from tiny_latent_diffusion import (
    TinyBackbone,
    tiny_batch,
    tiny_class_conditioner,
    tiny_model,
    tiny_params,
)

from ldm_jax import canvas
from ldm_jax.arrays import pixels_to_image
from ldm_jax.conditioners import Compose, Concat, Inpainting
from ldm_jax.data.layouts import Layout
from ldm_jax.model import Model
from ldm_jax.nn.conditioning import Conditioning
from ldm_jax.tiling import Tiling
from tests.test_model import SECTION, TinyText

RANDOM = np.random.default_rng(0)


class Pointwise(TinyBackbone):
    """Without neighbours: tiles of it are exact. Sides must be multiples of 2."""

    downsampling_factor = 2

    @nn.compact
    def __call__(self, x, t, cond, *, train=False):
        assert x.shape[1] % 2 == x.shape[2] % 2 == 0
        h = nn.Dense(16, name="time")(jnp.sin(t[:, None] * 2.0 ** -jnp.arange(9)))
        if cond.tokens is not None:
            h += nn.Dense(16, name="tokens")(cond.tokens.mean(1))
        if cond.vector is not None:
            h += nn.Dense(16, name="vector")(cond.vector)
        inputs = x if cond.concat is None else jnp.concatenate([x, cond.concat], -1)
        h = nn.Dense(16, name="in")(inputs) + h[:, None, None]
        return nn.Dense(x.shape[-1], name="out")(nn.silu(h))


def pictures(*shape):
    return RANDOM.integers(0, 256, (*shape, 3), np.uint8)


def model_of(conditioner, fields, *, backbone=None, tokenizer_section=None, **more):
    ldm = tiny_model(conditioner=conditioner)
    ldm = dataclasses.replace(ldm, backbone=backbone or Pointwise())
    batch = tiny_batch() | fields
    params, frozen = tiny_params(ldm, batch)
    config = {"sampler": SECTION, "data": {"image_size": 8}}
    if tokenizer_section:
        config |= {"tokenizer": tokenizer_section, "conditioner": {"name": "x"}}
    params = {**frozen, **params, "latent_scale": jnp.float32(0.8)}
    return Model(config=ConfigDict(config), ldm=ldm, params=params, **more)


@pytest.fixture(scope="module")
def upscaler():
    """Twice as large, and told a class that guidance can leave out."""
    conditioner = Compose(
        (Concat("low_res", name="low_res"), tiny_class_conditioner().clone(name="kind"))
    )
    return model_of(conditioner, {"low_res": jnp.zeros((4, 4, 4, 3))})


@pytest.fixture(scope="module")
def filler():
    fields = {"masked_image": jnp.zeros((4, 8, 8, 3)), "hole": jnp.zeros((4, 8, 8, 1))}
    return model_of(Inpainting(), fields)


@pytest.fixture(scope="module")
def plain():
    return model_of(None, {}, backbone=TinyBackbone())


def close(a, b):
    assert a.shape == b.shape
    np.testing.assert_allclose(a.astype(int), b, atol=1)


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (1, 1)])
def test_a_small_picture_of_any_size_becomes_exactly_f_times_as_large(upscaler, size):
    low_res = pixels_to_image(pictures(1, *size))
    drawn = upscaler.sample(conditions={"low_res": low_res}, class_labels=[1])
    assert drawn.shape == (1, 2 * size[0], 2 * size[1], 3)
    # What is cut off is the repeated border.
    even = [(0, 0), *((0, side % 2) for side in size), (0, 0)]
    padded = np.pad(low_res, even, "edge")
    whole = upscaler.sample(conditions={"low_res": padded}, class_labels=[1])
    np.testing.assert_array_equal(drawn, whole[:, : 2 * size[0], : 2 * size[1]])


def test_tiles_with_a_map_a_class_and_guidance_are_exact(upscaler):
    """A network without neighbours draws the same in tiles: maps are cut along."""
    low_res = pixels_to_image(pictures(2, 15, 22))
    draw = partial(
        upscaler.sample,
        conditions={"low_res": low_res},
        class_labels=[1, 4],
        guidance_scale=3.0,
        eta=1.0,
    )
    whole = draw(tile_size=0)
    assert whole.shape == (2, 30, 44, 3) and np.std(whole) > 1
    close(draw(tile_size=8, tile_overlap=2), whole)
    close(draw(), whole)  # tiles of 16


def test_an_encoded_condition_is_exact_in_tiles(filler):
    image, hole = pictures(30, 26), np.zeros((30, 26), bool)
    hole[3:17, 20:] = True
    draw = partial(filler.sample, init_image=image, hole=hole)
    whole = draw(tile_size=0)
    assert np.any(whole != image)
    close(draw(tile_size=8), whole)


def test_encode_and_decode_take_large_pictures_in_tiles(plain):
    image = pictures(1, 40, 24)
    assert canvas.tiling(plain, (40, 24)) is not None
    z = plain.encode(image)
    whole = plain.ldm.encode_mode(plain.params, pixels_to_image(image), 0.8)
    np.testing.assert_allclose(z, whole, atol=1e-5)
    close(plain.decode(z), plain.sample(init_image=image, strength=0.0, tile_size=0))


def test_large_pictures_are_drawn_in_tiles_of_twice_the_training_size(plain):
    assert canvas.tiling(plain, (34, 16)) == Tiling((8, 8), (4, 4))  # of latents
    assert canvas.tiling(plain, (16, 16)) is None
    assert canvas.tiling(plain, (34, 16), 0) is None
    assert canvas.tiling(plain, (34, 16), 16, 4) == Tiling((8, 8), (6, 6))
    draw = partial(plain.sample, 2, height=34, width=16, seed=3)
    in_tiles = draw()
    assert in_tiles.shape == (2, 34, 16, 3)
    np.testing.assert_array_equal(in_tiles, draw(tile_size=16))
    assert np.any(in_tiles != draw(tile_size=0))  # a 3x3 convolution sees borders


@pytest.mark.parametrize("model_name", ["filler", "plain"])
def test_outside_a_hole_of_any_picture_nothing_changes(model_name, request):
    model = request.getfixturevalue(model_name)
    image, hole = pictures(13, 9), np.zeros((13, 9), bool)
    hole[5:, 4:] = True  # up to the border
    drawn = model.sample(2, init_image=image, hole=hole)
    assert drawn.shape == (2, 13, 9, 3)
    np.testing.assert_array_equal(drawn[:, ~hole], np.stack([image[~hole]] * 2))
    assert np.any(drawn[0][hole] != drawn[1][hole])
    assert np.any(drawn[0][hole] != image[hole])


def test_pictures_and_holes_come_in_turn(plain):
    images = pictures(2, 8, 8)
    holes = np.zeros((2, 8, 8), bool)
    holes[0, :4], holes[1, 4:] = True, True
    drawn = plain.sample(4, init_image=images, hole=holes)
    for k in range(4):
        np.testing.assert_array_equal(
            drawn[k][~holes[k % 2]], images[k % 2][~holes[k % 2]]
        )


def test_resamplings_fit_the_hole_anew(plain, filler):
    image, hole = pictures(8, 8), np.zeros((8, 8), bool)
    hole[2:6, 2:6] = True
    draw = partial(plain.sample, init_image=image, hole=hole)
    np.testing.assert_array_equal(draw(resamplings=0), draw())
    assert np.any(draw(resamplings=2) != draw())
    np.testing.assert_array_equal(draw(resamplings=2), draw(resamplings=2))
    with pytest.raises(ValueError, match="was trained to fill holes"):
        filler.sample(init_image=image, hole=hole, resamplings=2)


@pytest.fixture(scope="module")
def layouts():
    section = {"name": "layout", "max_objects": 1, "vocab_size": 50}
    section = ConfigDict(section | {"encode_crop": False, "flags": ()})
    del section["vocab_size"]  # the conditioner's
    fields = {"tokens": jnp.zeros((4, 3), jnp.int32)}

    class Table(TinyText):
        def null(self, batch_size):
            nothing = jnp.zeros((batch_size, 3), jnp.int32)
            return Conditioning(tokens=self.table(nothing))

    return model_of(
        Table(), fields, tokenizer_section=section, class_names=("cat", "tree")
    )


def layout(x, label=0):
    return Layout(np.array([[x, 0.1, 0.4, 0.5]]), np.array([label]))


def test_a_model_of_layouts_draws_them_in_turn(layouts):
    layouts.config.conditioner.vocab_size = 50
    one, other = layout(0.0), layout(0.5, label=1)
    drawn = layouts.sample(layouts=[one, other], guidance_scale=2.0, batch_size=2)
    assert drawn.shape == (2, 8, 8, 3)
    same = layouts.sample(layouts=[one, one], guidance_scale=2.0, batch_size=2)
    np.testing.assert_array_equal(drawn[0], same[0])
    assert np.any(drawn[1] != same[1])
    with pytest.raises(ValueError, match="takes no text; .* on layouts"):
        layouts.sample(prompts=["a cat"])
    with pytest.raises(ValueError, match="give layouts"):
        layouts.sample()
    nameless = dataclasses.replace(layouts, class_names=())
    with pytest.raises(ValueError, match="names no classes"):
        nameless.sample(layouts=[one])


class Geometry(nn.Module):
    """A vector of the six numbers."""

    fields = ("geometry",)
    has_null = False

    @nn.compact
    def __call__(self, batch, *, train=False):
        return Conditioning(vector=batch["geometry"].astype(jnp.float32) / 8)

    def null(self, batch_size):
        raise ValueError("none")


def test_a_model_of_sizes_is_told_that_of_the_picture_it_draws():
    fields = {"geometry": jnp.zeros((4, 6), jnp.int32)}
    model = model_of(Geometry(), fields)

    def told(*geometry):
        return {"conditions": {"geometry": np.array([geometry])}}

    usual = model.sample(1)
    np.testing.assert_array_equal(usual, model.sample(1, **told(8, 8, 0, 0, 8, 8)))
    assert np.any(usual != model.sample(1, **told(8, 8, 4, 4, 8, 8)))
    tall = model.sample(1, height=12)
    same = model.sample(1, height=12, **told(12, 8, 0, 0, 12, 8))
    np.testing.assert_array_equal(tall, same)


MISTAKES = [
    ({"conditions": {"low_res": np.zeros((4, 4, 3))}}, "batch of pictures"),
    ({"conditions": {"low_res": np.zeros((1, 4, 4, 3))}, "height": 16}, "8x8 pixels"),
    ({"conditions": {"low_res": 3.0}}, "give a batch"),
    ({"tile_size": 5}, "a multiple of 4"),
    ({"tile_size": 8, "tile_overlap": 8}, "a multiple of 2 below"),
    ({"resamplings": -1}, "give 0 or more"),
]


@pytest.mark.parametrize(("settings", "says"), MISTAKES)
def test_a_mistake_is_one_sentence(upscaler, settings, says):
    with pytest.raises(ValueError, match=says) as error:
        upscaler.sample(**settings)
    assert "\n" not in str(error.value)


def test_a_batch_of_large_pictures_is_decoded_a_few_at_a_time(plain):
    training, twice = (4, 4), (8, 8)
    assert plain._decode_chunk_size(training, None) == 16
    assert plain._decode_chunk_size(twice, None) == 4
    tiling = canvas.tiling(plain, (1000, 1000))
    assert plain._decode_chunk_size((500, 500), tiling) == 4
    assert plain._decode_chunk_size((500, 500), None) == 1
