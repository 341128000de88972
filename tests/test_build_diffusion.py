"""The section `diffusion` of a config."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_latent_diffusion import tiny_model

from ldm_jax import build, build_diffusion
from ldm_jax import config as config_lib
from ldm_jax.diffusion.schedules import linear, zero_terminal_snr
from ldm_jax.tasks.denoising import denoising_task

DIFFERENCE = 3 * jax.random.normal(jax.random.key(0), (2, 4, 4, 2))


def tiny_config():
    return importlib.import_module("configs.tiny.ldm").get_config()


def loss_of(section):
    schedule, prediction = build_diffusion.process(section)
    model = tiny_model()
    model = type(model)(
        model.autoencoder, model.backbone, model.conditioner, schedule, prediction
    )
    return build_diffusion.denoising_loss(section, model)


def test_the_default_is_what_the_published_models_were_trained_with():
    loss = loss_of(tiny_config().diffusion)
    np.testing.assert_array_equal(
        loss.ldm.schedule.exact_signal_scales,
        linear(1000, 0.0015, 0.0195).exact_signal_scales,
    )
    assert loss.ldm.prediction.name == "eps"
    np.testing.assert_array_equal(loss.weights, 1)
    np.testing.assert_allclose(loss.norm(DIFFERENCE), (DIFFERENCE**2).mean((1, 2, 3)))
    key = jax.random.key(5)
    t = loss.time_sampling.draw({}, key, 16).t
    np.testing.assert_array_equal(t, jax.random.randint(key, (16,), 0, 1000))
    assert (loss.vlb_scale, loss.offset_noise) == (0, 0)
    assert loss.init_params() == loss.init_collections() == {}


def test_a_section_of_an_older_run_is_read_as_it_was_meant():
    section = ConfigDict(
        {
            "schedule": {"name": "cosine", "num_timesteps": 50},
            "prediction": "v",
            "loss": "l1",
            "weighting": "min_snr",
            "original_elbo_weight": 0.5,
        }
    )
    loss = loss_of(section)
    np.testing.assert_allclose(loss.norm(DIFFERENCE), abs(DIFFERENCE).mean((1, 2, 3)))
    assert loss.weights[-1] < 1 and loss.vlb_scale == 0.5
    assert loss.init_params() == loss.init_collections() == {}


def test_every_field_reaches_the_loss():
    section = tiny_config().diffusion
    section.schedule.zero_terminal_snr = True
    section.prediction = "v"
    section.loss = ConfigDict({"name": "huber", "delta": 0.1})
    section.weighting = ConfigDict({"name": "min_snr", "gamma": 2.0})
    section.time_sampling = ConfigDict({"name": "importance", "num_losses": 3})
    section.offset_noise = 0.1
    section.learn_log_variance = True
    loss = loss_of(section)
    np.testing.assert_array_equal(
        loss.ldm.schedule.exact_signal_scales,
        zero_terminal_snr(linear(1000, 0.0015, 0.0195)).exact_signal_scales,
    )
    assert loss.norm(DIFFERENCE).max() < 0.1 * abs(DIFFERENCE).mean((1, 2, 3)).max()
    snr = loss.ldm.schedule.exact_snr
    np.testing.assert_allclose(loss.weights, np.minimum(snr, 2) / (snr + 1), rtol=1e-6)
    assert loss.init_collections()["time_sampling"]["losses"].shape == (1000, 3)
    assert loss.offset_noise == 0.1
    assert denoising_task(loss).objectives["denoiser"].trains[-1] == "log_variance"


def test_rectified_flow_replaces_the_schedule_section():
    section = tiny_config().diffusion
    section.schedule = ConfigDict({"name": "rectified_flow", "shift": 3.0})
    section.prediction = "velocity"
    section.time_sampling.name = "logit_normal"
    loss = loss_of(section)
    assert loss.ldm.schedule.power == 1
    assert loss.ldm.schedule.num_timesteps == 1000


def test_what_the_loss_learns_and_remembers_is_in_the_state_but_not_in_the_average():
    config = tiny_config()
    config.diffusion.learn_log_variance = True
    config.diffusion.time_sampling.name = "importance"
    experiment = build.experiment(config)
    params, collections = jax.eval_shape(experiment.init, jax.random.key(0))
    assert params["log_variance"]["by_timestep"].shape == (1000,)
    assert set(collections) == {"latent_scale", "time_sampling"}
    average = build.average(config, experiment.task)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)
    assert set(average.init(zeros)) == {"backbone", "conditioner"}


@pytest.mark.parametrize("change", ["zero_terminal_snr", "rectified_flow"])
def test_eps_is_refused_where_the_schedule_ends_in_pure_noise(change):
    config = tiny_config()
    if change == "rectified_flow":
        config.diffusion.schedule = ConfigDict({"name": change})
    else:
        config.diffusion.schedule.zero_terminal_snr = True
    with pytest.raises(ValueError, match=rf"{change}.*set the prediction to v, x0"):
        config_lib.check(config)
    with pytest.raises(ValueError, match="config.diffusion.prediction to v, x0"):
        build.latent_diffusion(config)
    config.diffusion.prediction = "velocity"
    config_lib.check(config)
    build.latent_diffusion(config)


@pytest.mark.parametrize("field", ["loss", "weighting", "time_sampling"])
def test_unknown_names_and_fields_end_in_a_sentence(field):
    section = tiny_config().diffusion
    section[field].name = "nothing"
    with pytest.raises(
        ValueError, match=rf"config.diffusion.{field}.name is 'nothing'"
    ):
        loss_of(section)
    section = tiny_config().diffusion
    section[field].nothing = 1
    with pytest.raises(ValueError, match=rf"config.diffusion.{field} does not fit"):
        loss_of(section)


@pytest.mark.parametrize("number", [0, -5, 2**31])
def test_impossible_numbers_of_timesteps_are_refused_before_tables_are_made(number):
    section = tiny_config().diffusion
    section.schedule.num_timesteps = number
    with pytest.raises(
        ValueError, match=f"num_timesteps is {number}: give 1 to 1,000,"
    ):
        build_diffusion.process(section)
