"""The composition: latents in, images out, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_latent_diffusion import (
    tiny_batch,
    tiny_class_conditioner,
    tiny_model,
    tiny_params,
)

from configs.tiny import ldm as ldm_config
from ldm_jax import build
from ldm_jax.autoencoders import AUTOENCODERS
from ldm_jax.guidance import Guidance
from ldm_jax.latent_diffusion import measure_latent_scale
from ldm_jax.rng import example_keys
from ldm_jax.sample_fn import make_sample_fn
from ldm_jax.samplers import SAMPLERS, bucket, make_levels, pad
from ldm_jax.samplers.grids import from_strength
from ldm_jax.tiling import Tiling

KEY = jax.random.key(1)


def conditional():
    ldm, batch = tiny_model(conditioner=tiny_class_conditioner()), tiny_batch()
    return ldm, batch, *tiny_params(ldm, batch)


def test_measured_scale_gives_latents_unit_variance():
    latents = 3 + 5 * jax.random.normal(KEY, (4, 8, 8, 3))
    scale = measure_latent_scale(latents)
    assert scale.shape == () and scale.dtype == jnp.float32
    expected = float(1 / np.std(np.asarray(latents), ddof=1))
    assert float(scale) == pytest.approx(expected, rel=1e-5)
    assert float((latents * scale).std()) == pytest.approx(1, abs=1e-3)


def test_latents_are_posterior_samples_times_the_scale():
    ldm, batch, _, frozen = conditional()
    variables = {"params": frozen["autoencoder"]}
    latent = ldm.autoencoder.apply(variables, batch["image"], method="encode")
    z0 = ldm.encode(frozen, batch, KEY, 0.5)
    np.testing.assert_allclose(z0, 0.5 * latent.sample(KEY), rtol=1e-6)
    assert np.abs(z0 - ldm.encode(frozen, batch, jax.random.key(2), 0.5)).max() > 0.1


def test_cached_moments_give_the_same_latents_as_the_images():
    ldm, batch, _, frozen = conditional()
    variables = {"params": frozen["autoencoder"]}
    latent = ldm.autoencoder.apply(variables, batch["image"], method="encode")
    cached = {"moments": latent.moments}
    np.testing.assert_array_equal(
        ldm.encode({}, cached, KEY, 2.0), ldm.encode(frozen, batch, KEY, 2.0)
    )
    assert ldm.latent_shape(cached) == ldm.latent_shape(batch) == (4, 4, 4, 2)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_both_first_stages_fit(name):
    sizes = {"z_channels": 3, "embed_dim": 3, "ch": 8, "ch_mult": (1, 2)}
    autoencoder = AUTOENCODERS[name](**sizes, num_res_blocks=1, num_groups=4)
    ldm, batch = tiny_model(autoencoder=autoencoder), tiny_batch()
    key = jax.random.key(0)
    variables = jax.eval_shape(autoencoder.init, key, batch["image"], key)
    frozen = {"autoencoder": variables["params"]}
    z0 = jax.eval_shape(ldm.encode, frozen, batch, key, 2.0)
    moments = jax.eval_shape(
        lambda v, x: autoencoder.apply(v, x, method="encode").moments,
        variables,
        batch["image"],
    )
    cached = {"moments": moments}
    assert jax.eval_shape(ldm.encode, {}, cached, key, 2.0) == z0
    assert z0.shape == ldm.latent_shape(cached) == ldm.latent_shape(batch)
    assert z0.dtype == jnp.float32
    assert jax.eval_shape(ldm.decode, frozen, z0, 2.0).shape == batch["image"].shape


def test_a_batch_without_images_or_moments_is_refused():
    ldm, _, _, frozen = conditional()
    with pytest.raises(ValueError, match="neither 'image' nor 'moments'"):
        ldm.encode(frozen, {"class_label": jnp.zeros(3)}, KEY, 1.0)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_the_denoiser_explains_x_whatever_the_prediction(prediction):
    batch = tiny_batch()
    ldm = tiny_model(prediction=prediction)
    params, frozen = tiny_params(ldm, batch)
    x = jax.random.normal(KEY, (4, 4, 4, 2))
    denoise_fn = ldm.denoise_fn(params, ldm.condition(params, frozen, batch))
    for t in (0.0, 10.0, 500.5, 999.0):
        level = ldm.schedule.level_at(t)
        x0, eps = denoise_fn(x, level)
        explained = level.signal_scale * x0 + level.noise_scale * eps
        np.testing.assert_allclose(explained, x, atol=1e-4)


def test_decoding_in_chunks_gives_the_same_images():
    ldm, _, _, frozen = conditional()
    z = jax.random.normal(KEY, (5, 4, 4, 2))
    whole = ldm.decode(frozen, z, 0.7)
    assert whole.shape == (5, 8, 8, 3)
    for chunk_size in (1, 2, 5, 9):
        chunked = ldm.decode(frozen, z, 0.7, chunk_size=chunk_size)
        np.testing.assert_allclose(chunked, whole, atol=1e-6)


def weights(params, frozen, latent_scale=1.0):
    return {**frozen, **params, "latent_scale": jnp.float32(latent_scale)}


def plan_of(name, num_steps, strength=1.0, **options):
    levels = make_levels(tiny_model().schedule, num_steps)
    plan = SAMPLERS[name].plan(from_strength(levels, strength), **options)
    return pad(plan, bucket(num_steps))


def sample_fn_of(ldm, name="ddim", batch_size=4, latent_size=(4, 4)):
    return make_sample_fn(
        ldm, SAMPLERS[name], batch_size=batch_size, latent_size=latent_size
    )


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_samples_are_images_in_range(name):
    ldm, _, params, frozen = conditional()
    sample_fn = jax.jit(sample_fn_of(ldm, name, 3, (6, 4)))
    labels = {"class_label": jnp.arange(3)}
    image = sample_fn(weights(params, frozen), KEY, plan_of(name, 5), labels)
    assert image.shape == (3, 12, 8, 3) and image.dtype == jnp.float32
    assert np.abs(image).max() <= 1 and np.std(image) > 0


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_an_image_does_not_depend_on_the_batch_it_is_drawn_in(name):
    ldm, _, params, frozen = conditional()
    labels = jnp.array([0, 3, 1, 4])

    def draw(rows, key):
        sample_fn = jax.jit(sample_fn_of(ldm, name, len(rows)))
        batch = {"class_label": labels[rows]}
        params_ = weights(params, frozen, 0.5)
        plan = plan_of(name, 3)
        return sample_fn(params_, key, plan, batch, guidance=Guidance(2.0))

    whole = draw(jnp.arange(4), KEY)
    rows = jnp.array([2, 1])
    np.testing.assert_allclose(
        draw(rows, example_keys(KEY, rows)), whole[rows], atol=1e-5
    )
    assert np.abs(whole[0] - whole[1]).max() > 1e-2


def test_nothing_that_a_user_turns_compiles_anew():
    ldm, _, params, frozen = conditional()
    sample_fn = jax.jit(sample_fn_of(ldm))
    images = [
        sample_fn(
            weights(params, frozen, latent_scale),
            jax.random.key(seed),
            plan_of("ddim", steps, eta=eta),
            {"class_label": jnp.full(4, label)},
            guidance=Guidance(scale, 0.5 * eta, (0.1 * eta, 1.0)),
        )
        for latent_scale, seed, steps, eta, scale, label in [
            (1.0, 0, 30, 0.0, 3.0, 0),
            (0.5, 1, 31, 1.0, 7.5, 1),
            (0.5, 1, 50, 0.3, 7.5, 2),
        ]
    ]
    assert sample_fn._cache_size() == 1
    assert all(np.abs(images[0] - image).max() > 0 for image in images[1:])


def test_guidance_at_scale_one_equals_no_guidance():
    ldm, batch, params, frozen = conditional()
    sample_fn = sample_fn_of(ldm)
    run = lambda guidance: sample_fn(
        weights(params, frozen), KEY, plan_of("ddim", 4), batch, guidance=guidance
    )
    np.testing.assert_allclose(run(Guidance(1.0)), run(None), atol=1e-4)
    assert np.abs(run(Guidance(5.0)) - run(None)).max() > 1e-3


def test_a_negative_condition_equal_to_the_null_class_changes_nothing():
    ldm, batch, params, frozen = conditional()
    sample_fn = sample_fn_of(ldm)
    run = lambda negative: sample_fn(
        weights(params, frozen),
        KEY,
        plan_of("ddim", 4),
        batch,
        guidance=Guidance(3.0),
        negative=negative,
    )
    null = {"class_label": jnp.full(4, 5)}
    np.testing.assert_allclose(run(null), run(None), atol=1e-5)


def test_guiding_an_unconditional_model_is_refused():
    ldm, batch = tiny_model(), tiny_batch()
    params, frozen = tiny_params(ldm, batch)
    sample_fn, plan = sample_fn_of(ldm), plan_of("ddim", 4)
    assert sample_fn(weights(params, frozen), KEY, plan).shape == (4, 8, 8, 3)
    with pytest.raises(ValueError, match="unconditional"):
        sample_fn(weights(params, frozen), KEY, plan, guidance=Guidance(3.0))


def test_a_small_strength_stays_near_the_start_and_compiles_nothing():
    ldm, batch, params, frozen = conditional()
    sample_fn = jax.jit(sample_fn_of(ldm))
    z0 = ldm.encode(frozen, batch, KEY, 1.0)
    start = ldm.decode(frozen, z0, 1.0)
    distances = []
    for strength in (0.0, 0.1, 0.5, 1.0):
        plan = plan_of("ddim", 20, strength)
        image = sample_fn(weights(params, frozen), KEY, plan, batch, start=z0)
        distances.append(float(jnp.abs(image - jnp.clip(start, -1, 1)).mean()))
    assert distances[0] < 1e-6
    assert distances == sorted(distances) and distances[1] > 1e-4
    assert sample_fn._cache_size() == 1


def test_previews_are_images_of_the_chosen_steps():
    ldm, batch, params, frozen = conditional()
    image, previews = sample_fn_of(ldm)(
        weights(params, frozen),
        KEY,
        plan_of("ddim", 5),
        batch,
        preview_steps=jnp.array([0, 4]),
    )
    assert previews.shape == (2, *image.shape)
    # The last step leads to the model's x0.
    np.testing.assert_allclose(previews[1], image, atol=1e-5)
    assert np.abs(previews[0] - image).max() > 1e-3


def test_a_frozen_conditioner_is_found_among_the_frozen_parameters():
    ldm, batch, params, frozen = conditional()
    expected = ldm.condition(params, frozen, batch)
    moved = frozen | {"conditioner": params["conditioner"]}
    actual = ldm.condition({"backbone": params["backbone"]}, moved, batch)
    np.testing.assert_array_equal(actual.tokens, expected.tokens)


def test_parameters_can_be_planned_without_memory():
    ldm, batch, params, _ = conditional()
    shapes = jax.eval_shape(ldm.init_params, KEY, batch)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)


@pytest.mark.slow
def test_memory_of_tiles_stays_that_of_one_as_pictures_grow():
    """Compiled, not run: 64 to 1024 pixels, tiles of 64, a U-Net with attention."""
    config = ldm_config.get_config()
    ldm = build.latent_diffusion(config)
    key, batch = jax.random.key(0), build.example_batch(config, 1, ldm.conditioner)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
    params = jax.eval_shape(ldm.init_params, key, zeros)
    frozen = jax.eval_shape(ldm.autoencoder.init, key, zeros["image"], key)
    params["autoencoder"] = frozen["params"]
    f = ldm.autoencoder.downsampling_factor
    tiling = Tiling((64 // f,) * 2, (32 // f,) * 2)

    def denoise(params, z, tiling):
        cond = ldm.condition(params, params, {"class_label": jnp.zeros(1, jnp.int32)})
        denoise_fn = ldm.denoise_fn(params, cond, tiling=tiling)
        return denoise_fn(z, ldm.schedule.level_at(np.float64(500)))

    def decode(params, z, tiling):
        return ldm.decode(params, z, 1.0, tiling=tiling)

    def temporary_bytes(fn, side, tiling):
        shape = (1, side // f, side // f, ldm.autoencoder.latent_channels)
        z = jax.ShapeDtypeStruct(shape, jnp.float32)
        lowered = jax.jit(fn, static_argnums=2).lower(params, z, tiling)
        return lowered.compile().memory_analysis().temp_size_in_bytes  # pyright: ignore

    for fn, output in ((denoise, 1024**2 // f**2 * 16), (decode, 1024**2 * 12)):
        tile = temporary_bytes(fn, 64, None)
        large = temporary_bytes(fn, 1024, tiling)
        assert large <= 2 * tile + 3 * output, fn
        assert temporary_bytes(fn, 1024, None) > 8 * large  # what it would become
