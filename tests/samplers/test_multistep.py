"""DPM-Solver++ and UniPC: what their rows say."""

import math

import jax
import numpy as np
import pytest
from exact_score import LDM, draw, levels_of, mixture_denoise_fn

from ldm_jax.samplers import SAMPLERS, make_levels
from ldm_jax.samplers.base import pairs
from ldm_jax.samplers.multistep import available_order, half_log_snr
from ldm_jax.samplers.unipc import _phi

KEY = jax.random.key(0)
INF = float("inf")


def test_the_sde_solver_without_noise_is_the_ode_solver():
    levels = make_levels(LDM, 9)
    rows = SAMPLERS["dpmpp_sde_2m"].rows(levels, eta=0.0)
    expected = SAMPLERS["dpmpp_2m"].rows(levels)
    jax.tree.map(np.testing.assert_array_equal, rows, expected)
    np.testing.assert_array_equal(rows.noise_scale, 0)


def test_temperature_scales_the_noise_alone():
    levels = make_levels(LDM, 9)
    rows = SAMPLERS["dpmpp_sde_2m"].rows(levels, temperature=0.5)
    full = SAMPLERS["dpmpp_sde_2m"].rows(levels)
    assert np.all(full.noise_scale[:-1] > 0)
    np.testing.assert_allclose(rows.noise_scale, full.noise_scale / 2)
    np.testing.assert_array_equal(rows.coefs_x0, full.coefs_x0)


def test_2s_on_levels_uniform_in_lambda_is_algorithm_1_of_the_paper():
    """Its inner points, at r = 1/2, are the levels in between."""
    x = np.random.default_rng(0).normal(size=(4000, 2)).astype(np.float32)
    levels = make_levels(LDM, 10, grid="log_snr", final="first")
    actual = draw("dpmpp_2s", {}, levels, mixture_denoise_fn, x, KEY)
    level, inner, after = (
        type(levels)(*(v[i : i + 9 : 2] for v in levels)) for i in range(3)
    )
    h = 2 * np.diff(half_log_snr(levels))[0]
    for i in range(5):
        here, between, there = (
            type(levels)(*(v[i] for v in where)) for where in (level, inner, after)
        )
        x0 = mixture_denoise_fn(x, here).x0
        u = between.noise_scale / here.noise_scale * x
        u = u - between.signal_scale * math.expm1(-h / 2) * x0
        x0 = mixture_denoise_fn(u, between).x0  # at r = 1/2, D is this alone
        x = there.noise_scale / here.noise_scale * x
        x = np.asarray(x - there.signal_scale * math.expm1(-h) * x0)
    np.testing.assert_allclose(actual, x, rtol=1e-3, atol=1e-4)


def test_the_order_starts_again_where_lambda_is_infinite_or_stands_still():
    half_log_snrs = np.array([-INF, -3, -2, -2, -1, 0, 1, INF])
    assert available_order(half_log_snrs).tolist() == [1, 1, 1, 1, 2, 3, 1]


@pytest.mark.parametrize("name", ["dpmpp_2s", "dpmpp_2m", "dpmpp_sde_2m", "unipc"])
def test_coefficients_are_finite_without_signal_or_noise_or_a_step(name):
    levels = levels_of("rectified_flow", None, grid=(999, 800, 800, 300, 1))
    assert levels.signal_scale[0] == levels.noise_scale[-1] == 0
    rows = SAMPLERS[name].rows(levels)
    assert all(np.isfinite(table).all() for table in jax.tree.leaves(rows))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("b_h", ["bh1", "bh2"])
def test_unipc_takes_a_constant_x0_to_where_it_belongs(order, b_h):
    levels = make_levels(LDM, 8, grid="karras", final="first")
    rows = SAMPLERS["unipc"].rows(levels, order=order, b_h=b_h, final_order=3)
    level, after = pairs(levels)
    reached = rows.coef_x * level.signal_scale + rows.coefs_x0.sum(-1)
    np.testing.assert_allclose(reached, after.signal_scale, rtol=1e-9)
    used = (rows.coefs_x0 != 0).sum(-1)
    warm_up = [min(i + 1, order + 1) for i in range(8)]
    assert used.tolist() == warm_up


@pytest.mark.parametrize("z", [-1e-9, -1e-3, -0.999, -1.001, -8.0, 0.5, 3.0])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_phi_is_its_integral(k, z):
    """phi_k(z) = integral over u in [0, 1] of exp((1 - u) z) u^(k-1) / (k-1)!."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    u = (nodes + 1) / 2
    integrand = np.exp((1 - u) * z) * u ** (k - 1) / math.factorial(k - 1)
    assert _phi(k, z) == pytest.approx(weights @ integrand / 2, rel=1e-10)
