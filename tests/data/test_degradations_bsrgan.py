"""What BSRGAN leaves to chance, over 20,000 recipes of either variant."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from ldm_jax.data.degradations.bsrgan import (
    BSRGAN,
    BSRGAN_LIGHT,
    apply,
    bsrgan,
    draw_bsrgan,
    draw_order,
)
from ldm_jax.data.degradations.steps import (
    AnisotropicBlur,
    ColorNoise,
    CorrelatedNoise,
    GreyNoise,
    IsotropicBlur,
    Jpeg,
    Resize,
    Shrink,
    Subsample,
)

VARIANTS = {"bsrgan": BSRGAN, "bsrgan_light": BSRGAN_LIGHT}
NUM_RECIPES = 20_000
LEAST_P = 1e-4  # seeds are fixed: a failure is a change of the distribution


@pytest.fixture(scope="module", params=VARIANTS)
def drawn(request):
    """(name, the recipes that were halved first, the others); the halving removed."""
    generator = np.random.default_rng(2112)
    halved, whole = [], []
    for _ in range(NUM_RECIPES):
        recipe = draw_bsrgan(VARIANTS[request.param], 4, (256, 192), generator)
        if isinstance(recipe[0], Shrink) and is_halving(recipe):
            halved.append(recipe)
        else:
            whole.append(recipe)
    return request.param, halved, whole


def is_halving(recipe):
    """Whether one shrinking too many is there: downsample2 is the second then."""
    return len(of_kind(recipe, Shrink, Subsample)) == 2


def of_kind(recipe, *kinds):
    return [step for step in recipe if isinstance(step, kinds)]


def every(recipes, *kinds):
    return [step for recipe in recipes for step in of_kind(recipe, *kinds)]


def by_factor(drawn):
    """(factor that the middle steps are drawn for, recipes without the halving)."""
    _, halved, whole = drawn
    return (2, [recipe[1:] for recipe in halved]), (4, whole)


def assert_rate(count, total, rate):
    assert abs(count - total * rate) < 5 * np.sqrt(total * rate * (1 - rate)), (
        f"{count / total:.4f} of {total}, not {rate}"
    )


def assert_equally_likely(values, choices):
    counts = Counter(values)
    assert set(counts) == set(choices)
    assert stats.chisquare([counts[choice] for choice in choices]).pvalue > LEAST_P


def assert_uniform(values, low, high):
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > LEAST_P


def test_a_quarter_is_halved_first_half_of_it_by_antialiased_bicubic(drawn):
    _, halved, whole = drawn
    assert_rate(len(halved), NUM_RECIPES, 0.25)
    kinds = [recipe[0].interpolation for recipe in halved]
    assert {recipe[0].scale for recipe in halved} == {2.0}
    assert_rate(kinds.count("antialiased_cubic"), len(kinds), 0.5)
    others = [kind for kind in kinds if kind != "antialiased_cubic"]
    assert_equally_likely(others, ("linear", "cubic", "area"))
    assert all(len(of_kind(recipe, Shrink, Subsample)) == 1 for recipe in whole)


def test_blurs_have_the_kinds_sizes_and_widths_of_the_variant(drawn):
    light = drawn[0] == "bsrgan_light"
    sizes = {
        AnisotropicBlur: range(5, 15) if light else range(7, 26, 2),
        IsotropicBlur: range(5, 8) if light else range(7, 26, 2),
    }
    for factor, recipes in by_factor(drawn):
        blurs = every(recipes, *sizes)
        assert len(blurs) == len(recipes) * (1 if light else 2)
        anisotropic = every(recipes, AnisotropicBlur)
        isotropic = every(recipes, IsotropicBlur)
        assert_rate(len(anisotropic), len(blurs), 0.5)
        assert_equally_likely([b.size for b in anisotropic], sizes[AnisotropicBlur])
        assert_equally_likely([b.size for b in isotropic], sizes[IsotropicBlur])
        scale = 0.25 if light else 1
        along, across = np.array([b.variances for b in anisotropic]).T
        for variances in (along, across):
            assert_uniform(variances, 0, scale * (4 + factor))
        assert abs(stats.pearsonr(along, across)[0]) < 5 / np.sqrt(len(along))
        assert_uniform([b.angle for b in anisotropic], 0, np.pi)
        assert_uniform([b.sigma for b in isotropic], 0, scale * (2 + 0.2 * factor))


def test_downsample2_resizes_at_random_or_blurs_and_subsamples(drawn):
    for factor, recipes in by_factor(drawn):
        resizes = every(recipes, Shrink)
        rate = 0.8 if drawn[0] == "bsrgan_light" else 0.75
        assert_rate(len(resizes), len(recipes), rate)
        assert_uniform([step.scale for step in resizes], 1, 2 * factor)
        kinds = [step.interpolation for step in resizes]
        assert_equally_likely(kinds, ("linear", "cubic", "area"))
        samples = every(recipes, Subsample)
        assert len(samples) == len(recipes) - len(resizes)
        assert {step.stride for step in samples} == {factor}
        assert_uniform([step.sigma for step in samples], 0.1, 0.6 * factor)


def test_downsample3_gives_the_final_size_and_follows_downsample2(drawn):
    for _, recipes in by_factor(drawn):
        resizes = every(recipes, Resize)
        assert len(resizes) == len(recipes)
        assert {(step.height, step.width) for step in resizes} == {(64, 48)}
        kinds = [step.interpolation for step in resizes]
        assert_equally_likely(kinds, ("linear", "cubic", "area"))
        for recipe in recipes:
            (resize,) = of_kind(recipe, Resize)
            (shrinking,) = of_kind(recipe, Shrink, Subsample)
            assert recipe.index(shrinking) < recipe.index(resize)


def test_noise_has_the_kinds_and_levels_of_the_variant(drawn):
    name, halved, whole = drawn
    levels = range(1, 3) if name == "bsrgan_light" else range(2, 26)
    recipes = halved + whole
    noises = every(recipes, ColorNoise, GreyNoise, CorrelatedNoise)
    assert len(noises) == len(recipes)
    for kind, rate in ((ColorNoise, 0.4), (GreyNoise, 0.4), (CorrelatedNoise, 0.2)):
        assert_rate(len(every(recipes, kind)), len(recipes), rate)
    for kind in (ColorNoise, GreyNoise):
        assert_equally_likely([step.level for step in every(recipes, kind)], levels)
    assert len({step.seed for step in noises}) == len(noises)


def test_correlated_noise_has_covariances_of_the_largest_level(drawn):
    """|L^2 U^T D U|: the trace is L^2 (d1 + d2 + d3), d uniform; no eigenvalue < 0."""
    name, halved, whole = drawn
    steps = every(halved + whole, CorrelatedNoise)
    largest = (2 if name == "bsrgan_light" else 25) / 255
    covariances = np.array([step.covariance for step in steps]) / largest**2
    traces = np.trace(covariances, axis1=1, axis2=2)
    assert stats.kstest(traces, stats.irwinhall(3).cdf).pvalue > LEAST_P
    assert covariances.min() >= 0
    assert np.linalg.eigvalsh(covariances).min() > -1e-12
    np.testing.assert_allclose(covariances, covariances.swapaxes(1, 2), atol=1e-12)


def test_jpeg_comes_nine_times_in_ten_and_always_last(drawn):
    name, halved, whole = drawn
    recipes = halved + whole
    assert all(isinstance(recipe[-1], Jpeg) for recipe in recipes)
    before = every([recipe[:-1] for recipe in recipes], Jpeg)
    assert_rate(len(before), len(recipes), 0.9)
    qualities = range(80 if name == "bsrgan_light" else 30, 96)
    assert_equally_likely([step.quality for step in before], qualities)
    assert_equally_likely([recipe[-1].quality for recipe in recipes], qualities)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_order_with_downsample2_before_downsample3_is_as_likely(name):
    settings, generator = VARIANTS[name], np.random.default_rng(5)
    operations = ["downsample2", "downsample3", "noise", "jpeg"]
    operations += ["blur"] * settings.num_blurs
    allowed = {
        order
        for order in permutations(operations)
        if order.index("downsample2") < order.index("downsample3")
    }
    orders = [tuple(draw_order(settings, generator)) for _ in range(NUM_RECIPES)]
    assert len(allowed) == {"bsrgan": 180, "bsrgan_light": 60}[name]
    assert_equally_likely(orders, sorted(allowed))


def test_the_recipes_order_is_the_order_drawn(drawn):
    """Where noise stands: before every other step, and after, alike in p."""
    name, halved, whole = drawn
    recipes = [recipe[1:] for recipe in halved] + whole
    full = [r for r in recipes if len(of_kind(r, Jpeg)) == 2]
    places = [
        next(i for i, s in enumerate(r) if isinstance(s, ColorNoise | GreyNoise))
        for r in full
        if of_kind(r, ColorNoise, GreyNoise)
    ]
    assert_equally_likely(places, range(5 if name == "bsrgan_light" else 6))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("factor", [2, 3, 8])
def test_other_factors_are_never_halved_first(name, factor):
    generator = np.random.default_rng(0)
    size = 16 * factor, 8 * factor
    for _ in range(300):
        recipe = draw_bsrgan(VARIANTS[name], factor, size, generator)
        assert len(of_kind(recipe, Shrink, Subsample)) == 1
        assert {s.stride for s in of_kind(recipe, Subsample)} <= {factor}
        assert [(s.height, s.width) for s in of_kind(recipe, Resize)] == [(16, 8)]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_recipe_says_everything(name):
    """Carried out twice it gives the same pixels, those of `bsrgan` with its seed."""
    pixels = np.random.default_rng(0).integers(0, 256, (41, 50, 3), np.uint8)
    settings = VARIANTS[name]
    for seed in range(8):
        generator = np.random.default_rng(seed)
        recipe = draw_bsrgan(settings, 4, (40, 48), generator)
        first = apply(recipe, pixels[:40, :48])
        np.testing.assert_array_equal(apply(recipe, pixels[:40, :48]), first)
        other = bsrgan(pixels, 4, np.random.default_rng(seed), settings=settings)
        np.testing.assert_array_equal(other, first)


def test_the_light_variant_keeps_more_of_the_picture():
    generator = np.random.default_rng(1)
    ramp = np.linspace(30, 220, 64).astype(np.uint8)
    pixels = np.broadcast_to(ramp[:, None, None], (64, 64, 3))
    clean = pixels.reshape(16, 4, 16, 4, 3).mean((1, 3))
    errors = {
        name: np.mean(
            [
                np.abs(bsrgan(pixels, 4, generator, settings=settings) - clean)[2:-2]
                for _ in range(40)
            ]
        )
        for name, settings in VARIANTS.items()
    }
    assert errors["bsrgan_light"] < 4 < errors["bsrgan"] < 20, errors
