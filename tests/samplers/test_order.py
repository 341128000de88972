"""Deterministic samplers show their order: the slope of error against step size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_score import LDM, mixture_denoise_fn

from ldm_jax.samplers import SAMPLERS, make_levels, pad, sample
from ldm_jax.samplers.base import Plan

# sampler, options, order of convergence on a grid that is uniform in lambda
ORDERS = [
    ("ddim", {}, 1),
    ("heun", {}, 2),
    ("plms", {}, 2),
    ("dpmpp_2s", {}, 2),
    ("dpmpp_2m", {}, 2),
    ("unipc", {"order": 1, "final_order": 3}, 2),
    ("unipc", {"order": 2, "final_order": 3}, 3),
    ("unipc", {"order": 3, "final_order": 3}, 4),
    ("unipc", {"order": 3, "final_order": 3, "b_h": "bh1"}, 4),
]
STEPS = (60, 120, 240)
WIDE = np.array([0.8, 1.0, 0.7])  # of the modes: a smooth problem


def solve_in_float64(name, options, num_steps):
    levels = make_levels(LDM, num_steps, grid="log_snr", final="first")
    rows = SAMPLERS[name].rows(levels, **options)
    start = type(levels)(*(value[0] for value in levels))
    plan = pad(Plan(rows, start, np.asarray(num_steps, np.int32)), 512)
    return np.asarray(program(name)(plan, jnp.asarray(x_T())))


@functools.cache
def program(name):
    denoise_fn = functools.partial(mixture_denoise_fn, stds=WIDE)
    key = jax.random.key(0)
    return jax.jit(lambda plan, x: sample(denoise_fn, SAMPLERS[name], plan, x, key))


def x_T():
    return np.random.default_rng(0).normal(size=(32, 2))


@functools.cache
def fine_solution():
    return solve_in_float64("unipc", {"order": 3, "final_order": 3}, 500)


@pytest.mark.parametrize("name,options,order", ORDERS)
def test_halving_the_step_divides_the_error_by_two_to_the_order(name, options, order):
    with jax.enable_x64(True):
        errors = [
            np.abs(solve_in_float64(name, options, n) - fine_solution()).mean()
            for n in STEPS
        ]
    slope = -np.polyfit(np.log(STEPS), np.log(errors), 1)[0]
    assert order - 0.35 < slope < order + 0.5, (slope, errors)


def test_the_fine_solution_is_that_of_another_method():
    with jax.enable_x64(True):
        error = np.abs(solve_in_float64("heun", {}, 500) - fine_solution()).max()
        coarse = np.abs(solve_in_float64("heun", {}, 250) - fine_solution()).max()
    assert error < 1e-3 and coarse / error == pytest.approx(4, rel=0.1)
