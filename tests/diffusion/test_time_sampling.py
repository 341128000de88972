"""How t is drawn, against the densities of the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import TIME_SAMPLINGS
from ldm_jax.diffusion.schedules import linear, rectified_flow, zero_terminal_snr
from ldm_jax.diffusion.time_sampling import importance

KEY = jax.random.key(0)
SCHEDULE = linear(beta_start=0.0015, beta_end=0.0195)
NUM_DRAWS = 200_000


def draw(sampling, num_draws=NUM_DRAWS, memory=None):
    memory = sampling.init() if memory is None else memory
    return jax.jit(sampling.draw, static_argnums=2)(memory, KEY, num_draws)


def shares(t, num_bins, num_timesteps):
    edges = np.linspace(0, num_timesteps, num_bins + 1)
    return np.histogram(np.asarray(t) + 0.5, edges)[0] / len(t)


def normal_density(x, mean, std):
    return np.exp(-((x - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi))


@pytest.mark.parametrize("name", TIME_SAMPLINGS)
@pytest.mark.parametrize("num_timesteps", [1, 30])
def test_every_draw_is_a_timestep_and_counts_once_on_average(name, num_timesteps):
    for schedule in (linear(num_timesteps), rectified_flow(num_timesteps)):
        times = draw(TIME_SAMPLINGS[name](schedule), 3000)
        assert times.t.dtype == jnp.int32
        assert times.t.min() >= 0 and times.t.max() < num_timesteps
        np.testing.assert_allclose(times.correction, 1, rtol=1e-6)


def test_uniform_draws_are_those_of_randint():
    t = draw(TIME_SAMPLINGS["uniform"](SCHEDULE), 64).t
    np.testing.assert_array_equal(t, jax.random.randint(KEY, (64,), 0, 1000))


@pytest.mark.parametrize("mean,std", [(0.0, 1.0), (-0.5, 0.6)])
def test_logit_normal_follows_its_density(mean, std):
    sampling = TIME_SAMPLINGS["logit_normal"](rectified_flow(1000), mean, std)
    found = shares(draw(sampling).t, 20, 1000)
    tau = (np.arange(20_000) + 0.5) / 20_000
    density = normal_density(np.log(tau / (1 - tau)), mean, std) / (tau * (1 - tau))
    expected = density.reshape(20, 1000).mean(1) / 20
    assert expected.sum() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(found, expected, atol=0.003)


@pytest.mark.parametrize("schedule", [SCHEDULE, rectified_flow(1000)])
def test_log_normal_gives_log_sigma_its_mean_and_deviation(schedule):
    t = draw(TIME_SAMPLINGS["log_normal"](schedule, mean=-0.4, std=1.0)).t
    t = np.asarray(t)[np.asarray(t) < 999]
    log_sigma = -0.5 * np.log(schedule.exact_snr[t])
    assert log_sigma.mean() == pytest.approx(-0.4, abs=0.02)
    assert log_sigma.std() == pytest.approx(1.0, abs=0.02)
    found = np.histogram(log_sigma, np.linspace(-2.5, 2.5, 11))[0] / len(t)
    centres = np.linspace(-2.5, 2.5, 501)[:-1] + 0.005
    density = normal_density(centres, -0.4, 1.0).reshape(10, 50).mean(1) * 0.5
    np.testing.assert_allclose(found, density, atol=0.01)


def test_log_normal_draws_pure_noise_hardly_ever():
    schedule = zero_terminal_snr(SCHEDULE)
    t = draw(TIME_SAMPLINGS["log_normal"](schedule)).t
    assert (t == 999).mean() < 1e-3 and t.max() > 900


def remember_in_order(losses, count, batch):
    """The published resampler: one loss after the other, the oldest falls out."""
    for t, loss in batch:
        losses[t] = [*losses[t], loss][-4:]
        count[t] += 1


def test_importance_keeps_the_last_losses_of_each_t():
    sampling = importance(linear(5), num_losses=4)
    memory, losses, count = sampling.init(), [[] for _ in range(5)], [0] * 5
    generator, update = np.random.default_rng(0), jax.jit(sampling.update)
    for _ in range(30):
        t = generator.choice(5, 9, p=[0.8, 0.1, 0.04, 0.03, 0.03])  # many of one t
        values = generator.normal(size=9).astype(np.float32)
        memory = update(memory, t, values)
        remember_in_order(losses, count, zip(t, values, strict=True))
        np.testing.assert_array_equal(memory["count"], count)
        for ours, theirs in zip(memory["losses"], losses, strict=True):
            kept = np.sort(np.pad(theirs, (0, 4 - len(theirs))))
            np.testing.assert_array_equal(np.sort(ours), kept)


def learned(schedule, scale, **options):
    """Memory after losses of size scale[t] at every t."""
    sampling = importance(schedule, num_losses=2, **options)
    t = np.tile(np.arange(schedule.num_timesteps), 2)
    losses = np.concatenate([scale, -scale]).astype(np.float32)
    return sampling, jax.jit(sampling.update)(sampling.init(), t, losses)


def test_importance_is_uniform_until_all_t_are_known():
    sampling = importance(linear(10), num_losses=2)
    t = np.tile(np.arange(9), 3)
    memory = jax.jit(sampling.update)(sampling.init(), t, t + np.float32(1))
    times = draw(sampling, memory=memory)
    np.testing.assert_allclose(shares(times.t, 10, 10), 0.1, atol=0.005)
    np.testing.assert_allclose(times.correction, 1, rtol=1e-6)


def test_importance_draws_in_proportion_to_the_root_mean_square_of_the_losses():
    scale = np.arange(1.0, 21.0)
    sampling, memory = learned(linear(20), scale, uniform_rate=0.1)
    times = draw(sampling, memory=memory)
    p = 0.9 * scale / scale.sum() + 0.1 / 20
    np.testing.assert_allclose(shares(times.t, 20, 20), p, atol=0.003)
    expected = 1 / (20 * p[np.asarray(times.t)])
    np.testing.assert_allclose(times.correction, expected, rtol=1e-5)


def test_importance_keeps_the_mean_loss_and_lowers_its_variance():
    scale = np.geomspace(1e-3, 10, 50)
    sampling, memory = learned(linear(50), scale)
    times = draw(sampling, memory=memory)
    losses = np.asarray(times.correction) * scale[np.asarray(times.t)]
    assert losses.mean() == pytest.approx(scale.mean(), rel=0.01)
    assert losses.std() < 0.1 * scale.std()


def test_a_loss_of_zero_everywhere_leaves_importance_uniform():
    sampling, memory = learned(linear(8), np.zeros(8), uniform_rate=0.0)
    times = draw(sampling, 100, memory=memory)
    np.testing.assert_allclose(times.correction, 1, rtol=1e-6)


def test_impossible_numbers_are_refused():
    for name in ("logit_normal", "log_normal"):
        with pytest.raises(ValueError, match="std of time sampling is 0"):
            TIME_SAMPLINGS[name](SCHEDULE, std=0)
    for options in ({"num_losses": 0}, {"uniform_rate": 1.5}):
        with pytest.raises(ValueError, match="importance sampling of t"):
            importance(SCHEDULE, **options)
