import numpy as np
import pytest

from ldm_jax.evaluation.frechet import frechet_distance, sample_warnings
from ldm_jax.evaluation.statistics import Moments
from tests.evaluation.feature_sets import feature_set


@pytest.mark.parametrize("count", [10, 24, 25, 400])
def test_a_set_has_no_distance_to_itself(count):
    # Also with singular covariances: 24 features.
    moments = Moments.of(100 * feature_set(count))
    scale = np.trace(moments.covariance)
    assert frechet_distance(moments, moments) <= 1e-6 * scale
    assert scale > 1


def test_the_same_statistics_from_other_batches_have_none_either():
    features = feature_set(300)
    halves = Moments.of(features[:100]).merge(Moments.of(features[100:]))
    whole = Moments.of(features)
    assert frechet_distance(whole, halves) <= 1e-6 * np.trace(whole.covariance)


@pytest.mark.parametrize("count", [12, 300])
def test_it_is_symmetric(count):
    a, b = Moments.of(feature_set(count)), Moments.of(feature_set(200, seed=1))
    forth, back = frechet_distance(a, b), frechet_distance(b, a)
    np.testing.assert_allclose(forth, back, rtol=1e-9)
    assert forth > 0


def test_it_has_the_closed_form_of_diagonal_gaussians():
    random = np.random.default_rng(0)
    (mean_a, mean_b), (std_a, std_b) = random.uniform(0.5, 2, (2, 2, 16))
    a = Moments.from_covariance(mean_a, np.diag(std_a**2), 100)
    b = Moments.from_covariance(mean_b, np.diag(std_b**2), 100)
    expected = np.sum((mean_a - mean_b) ** 2) + np.sum((std_a - std_b) ** 2)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-12)


def test_it_grows_with_the_shift():
    base = Moments.of(feature_set(500))
    shifts = (0.0, 0.1, 0.2, 0.4, 0.8)
    others = [Moments.of(feature_set(500, shift=s, seed=1)) for s in shifts]
    values = [frechet_distance(base, other) for other in others]
    assert np.all(np.diff(values) > 0), values


def test_features_of_two_networks_are_not_compared():
    with pytest.raises(ValueError, match="one network"):
        frechet_distance(Moments.of(feature_set(5)), Moments.of(feature_set(5, 8)))


@pytest.mark.parametrize(
    ("count", "width", "warns"),
    [(2047, 64, True), (2048, 64, False), (2048, 2048, True), (0, 2048, False)],
)
def test_few_samples_are_warned_about(count, width, warns):
    warnings = sample_warnings(count, width, "samples")
    assert len(warnings) == warns
    assert all(str(count) in warning for warning in warnings)
