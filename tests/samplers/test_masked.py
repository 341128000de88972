"""Known regions: exact where asked, and the rest drawn to fit them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoise import Denoised
from ldm_jax.diffusion.schedules import linear
from ldm_jax.samplers import SAMPLERS, make_levels, pad, sample
from ldm_jax.samplers.base import Sampler, no_state
from ldm_jax.samplers.masked import Known, masked

SCHEDULE = linear(beta_start=0.0015, beta_end=0.0195)
MEAN = np.array([0.5, -1.0, 0.8])
COV = np.array([[1.0, 0.8, 0.3], [0.8, 1.0, 0.5], [0.3, 0.5, 0.7]])
VARIANCES, AXES = np.linalg.eigh(COV)
KEY, NOISE_KEY = jax.random.key(0), jax.random.key(1)
X_T = jax.random.normal(jax.random.key(2), (2000, 3))
KEEP = jnp.array([1.0, 0.0, 1.0])
# The middle one, drawn given the two others 1.5 standard deviations up.
SEEN = MEAN + 1.5 * np.sqrt(np.diag(COV))
WEIGHTS = COV[1, [0, 2]] @ np.linalg.inv(COV[np.ix_([0, 2], [0, 2])])
EXPECTED_MEAN = MEAN[1] + WEIGHTS @ (SEEN - MEAN)[[0, 2]]
EXPECTED_STD = np.sqrt(COV[1, 1] - WEIGHTS @ COV[[0, 2], 1])


def denoise_fn(x, level):
    """E[x0 | x] for data N(MEAN, COV)."""
    _, a, s = level
    gain = (AXES * (a * VARIANCES / (a**2 * VARIANCES + s**2))) @ AXES.T
    x0 = MEAN + (x - a * MEAN) @ gain
    return Denoised(x0, (x - a * x0) / s)


def run(name, known, num_steps=50, num_resamplings=0):
    sampler = SAMPLERS[name]
    plan = pad(sampler.plan(make_levels(SCHEDULE, num_steps)), 64)

    @jax.jit
    def draw(plan, x, known, key):
        held = masked(sampler, known, key, num_resamplings=num_resamplings)
        return sample(denoise_fn, held, plan, x, KEY)

    return np.asarray(draw(plan, X_T, known, NOISE_KEY))


def known_data(keep=KEEP):
    return Known(jnp.broadcast_to(jnp.float32(SEEN), X_T.shape), keep)


def bias(x):
    """Error of the drawn mean; 1 is to ignore what is known, 0 is exact."""
    shift = EXPECTED_MEAN - MEAN[1]
    return abs(x[:, 1].mean() - EXPECTED_MEAN) / shift


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_drawn_leans_towards_what_is_known(name):
    known = known_data()
    x = run(name, known)
    assert bias(x) < 0.55
    assert x[:, 1].std() == pytest.approx(EXPECTED_STD, rel=0.4)
    # Before compositing the known part is the model's belief of nearly clean data.
    assert np.abs(x - SEEN)[:, [0, 2]].mean() < 0.2  # its last level has noise 0.19
    exact = known.composite(x)
    np.testing.assert_array_equal(exact[:, [0, 2]], known.x0[:, [0, 2]])
    np.testing.assert_array_equal(exact[:, 1], x[:, 1])


@pytest.mark.parametrize("name", ["ddpm", "plms"])
def test_resampling_leads_to_the_conditional_distribution(name):
    x = run(name, known_data(), num_resamplings=4)
    assert bias(x) < 0.15
    assert x[:, 1].std() == pytest.approx(EXPECTED_STD, rel=0.1)


@pytest.mark.parametrize("name", ["ddpm", "plms"])
def test_where_nothing_is_known_the_sampler_is_itself_to_the_bit(name):
    sampler = SAMPLERS[name]
    plan = pad(sampler.plan(make_levels(SCHEDULE, 6)), 8)
    known = Known(X_T[:5], jnp.zeros((5, 1)))
    held = masked(sampler, known, NOISE_KEY)
    draw = lambda s: jax.jit(lambda plan: sample(denoise_fn, s, plan, X_T[5:10], KEY))
    np.testing.assert_array_equal(draw(held)(plan), draw(sampler)(plan))


def test_each_step_takes_the_known_data_at_its_own_level_with_fresh_noise():
    seen = []

    def spy(denoise_fn, x, state, row, key):
        note = lambda *row: seen.append(jax.tree.map(np.asarray, row))
        jax.debug.callback(note, x, row.level)
        return x, state, x

    levels = make_levels(SCHEDULE, 4)
    watched = Sampler(SAMPLERS["ddim"].rows, no_state, spy)
    known = Known(jnp.full((2, 50_000), 3.0), jnp.ones((1, 1)))
    held = masked(watched, known, NOISE_KEY)
    plan = watched.plan(levels)
    jax.block_until_ready(sample(denoise_fn, held, plan, 0 * known.x0, KEY))
    jax.effects_barrier()
    assert len(seen) == 4
    noises = []
    for x, level in sorted(seen, key=lambda pair: -pair[1].t):
        assert x.mean() == pytest.approx(3 * level.signal_scale, abs=0.02)
        assert x.std() == pytest.approx(level.noise_scale, rel=0.02)
        noises.append((x - x.mean()).ravel())
    correlation = np.corrcoef(noises) - np.eye(4)
    assert np.abs(correlation).max() < 0.02
    np.testing.assert_allclose([v[1].t for v in seen], levels.t[:-1])


def test_the_two_conventions_of_masks_are_one_another_s_complement():
    x0 = jnp.arange(6.0).reshape(2, 3)
    hole = jnp.array([[True, False, True]])
    for marked in (hole, hole.astype(jnp.float32), np.asarray(hole, np.uint8)):
        known = Known.outside(x0, marked)
        filled = known.composite(jnp.full_like(x0, -1))
        np.testing.assert_array_equal(filled, [[-1, 1, -1], [-1, 4, -1]])
    kept = Known(x0, hole).composite(jnp.full_like(x0, -1))
    np.testing.assert_array_equal(kept, [[0, -1, 2], [3, -1, 5]])


def test_data_and_mask_are_inputs_and_the_result_has_their_derivative():
    sampler = SAMPLERS["ddim"]
    plan = sampler.plan(make_levels(SCHEDULE, 6))

    @jax.jit
    @jax.value_and_grad
    def drawn(x0, keep):
        held = masked(sampler, Known(x0, keep), NOISE_KEY, num_resamplings=1)
        return sample(denoise_fn, held, plan, X_T[:2], KEY)[0, 1]

    x0 = jnp.broadcast_to(jnp.float32(SEEN), (2, 3))
    slope = drawn(x0, KEEP)[1][0, 0]
    step = jnp.zeros_like(x0).at[0, 0].set(0.1)
    expected = (drawn(x0 + step, KEEP)[0] - drawn(x0 - step, KEEP)[0]) / 0.2
    assert float(slope) == pytest.approx(float(expected), rel=0.02)
    assert slope > 0.1
    assert drawn(x0, 0 * KEEP)[1][0, 0] == 0
    assert drawn._cache_size() == 1
