"""DDPM ancestral sampling against the reference's formula and diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoise import Denoised
from ldm_jax.diffusion.predictions import EPS
from ldm_jax.diffusion.process import scales_at, step_posterior
from ldm_jax.diffusion.schedules import linear
from ldm_jax.samplers import ddim, ddpm, sample

SCHEDULE = linear(beta_start=0.0015, beta_end=0.0195)


def wavy_denoise_fn(x, t):
    a, s = scales_at(SCHEDULE, t, x.ndim)
    return EPS.read(jnp.sin(x) * s, x, a, s)


def test_one_step_has_the_posterior_mean_and_standard_deviation():
    sampler = ddpm(SCHEDULE)
    x = jnp.full((1, 200_000), 0.7)
    index = 400  # t = 599
    x_prev, _ = sampler.step(
        lambda x, t: Denoised(jnp.full_like(x, -0.2), x),
        x,
        sampler.init(x),
        jnp.int32(index),
        jax.random.key(0),
    )
    q = step_posterior(SCHEDULE)
    t = 999 - index
    mean = q.coef_x0[t] * -0.2 + q.coef_x_t[t] * 0.7
    assert float(x_prev.mean()) == pytest.approx(mean, abs=1e-3)
    assert float(x_prev.std()) == pytest.approx(q.variance[t] ** 0.5, rel=0.01)


def test_beta_variance_is_larger_than_the_posterior_s():
    def noise_of(variance):
        sampler = ddpm(SCHEDULE, 10, variance=variance, grid="trailing")
        x = jnp.zeros((1, 10_000))
        zero = lambda x, t: Denoised(x, x)
        return [
            float(sampler.step(zero, x, (), jnp.int32(i), jax.random.key(0))[0].std())
            for i in range(10)
        ]

    lower, upper = noise_of("posterior"), noise_of("beta")
    assert all(a < b for a, b in zip(lower[:-1], upper[:-1], strict=True))
    assert lower[-1] == upper[-1] == 0


def test_without_noise_it_equals_ddim_with_eta_one_without_noise():
    x_T = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    key = jax.random.key(1)
    ancestral = sample(wavy_denoise_fn, ddpm(SCHEDULE, 20, temperature=0.0), x_T, key)
    implicit = sample(
        wavy_denoise_fn, ddim(SCHEDULE, 20, eta=1.0, temperature=0.0), x_T, key
    )
    np.testing.assert_allclose(ancestral, implicit, rtol=1e-4, atol=1e-5)


def test_diffusers_agrees_on_the_posterior_of_each_step():
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        variance_type="fixed_small",
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(8)
    sampler = ddpm(SCHEDULE, 8, grid="trailing", temperature=0.0)
    x = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 12)
    for index, t in enumerate(scheduler.timesteps):
        _, eps = wavy_denoise_fn(x, np.full(2, float(t), np.float32))
        expected = scheduler.step(
            torch.from_numpy(np.array(eps)), t, torch.from_numpy(x)
        ).pred_original_sample
        x0 = wavy_denoise_fn(x, np.full(2, float(t), np.float32)).x0
        np.testing.assert_allclose(x0, expected, rtol=2e-4, atol=2e-4)
        variance = float(scheduler._get_variance(int(t)))
        noisy, _ = ddpm(SCHEDULE, 8, grid="trailing").step(
            wavy_denoise_fn, x, (), index, jax.random.key(0)
        )
        clean, _ = sampler.step(wavy_denoise_fn, x, (), index, jax.random.key(0))
        noise = np.asarray(noisy - clean) / np.asarray(
            jax.random.normal(jax.random.key(0), x.shape)
        )
        last = index == sampler.num_steps - 1
        np.testing.assert_allclose(noise, 0 if last else variance**0.5, rtol=2e-3)


def test_an_unknown_variance_is_refused():
    with pytest.raises(ValueError, match="'posterior' or 'beta'"):
        ddpm(SCHEDULE, 5, variance="learned")
