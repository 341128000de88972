"""KID, Inception Score, CLIP score, codebook usage, intervals."""

import numpy as np
import pytest

from ldm_jax.evaluation.bootstrap import mean_interval
from ldm_jax.evaluation.clip_score import clip_score
from ldm_jax.evaluation.codebook import codebook_usage
from ldm_jax.evaluation.inception_score import inception_score
from ldm_jax.evaluation.kernel_distance import kid
from tests.evaluation.feature_sets import feature_set


def test_kid_is_unbiased_about_zero_for_one_distribution():
    a, b = feature_set(600), feature_set(600, seed=1)
    same = kid(a, b, subsets=20, subset_size=200)
    other = kid(a, feature_set(600, shift=0.3, seed=1), subsets=20, subset_size=200)
    assert abs(same.mean) < 0.05 * other.mean


def test_kid_refuses_subsets_larger_than_the_set():
    with pytest.raises(ValueError, match="subsets of 1000"):
        kid(feature_set(100), feature_set(2000))


def test_the_inception_score_counts_the_classes_that_are_sure():
    certain = 50.0 * np.eye(8, dtype=np.float32)[np.arange(800) % 8]
    assert inception_score(certain, splits=1).mean == pytest.approx(8)
    unsure = np.zeros((800, 8), np.float32)
    assert inception_score(unsure, splits=1).mean == pytest.approx(1)
    with pytest.raises(ValueError, match="10 splits"):
        inception_score(unsure[:5])


def test_the_clip_score_is_a_cosine_times_100():
    pictures = np.array([[2.0, 0], [1, 1], [-1, 0]])
    texts = np.array([[1.0, 0], [1, 0], [1, 0]])
    expected = [100, 100 / np.sqrt(2), 0]
    np.testing.assert_allclose(clip_score(pictures, texts), expected)
    with pytest.raises(ValueError, match="one text for each picture"):
        clip_score(pictures, texts[:2])


def test_codebook_usage_counts_codes_and_how_evenly_they_occur():
    even, uneven = np.array([5, 5, 0, 0]), np.array([9, 1, 0, 0])
    assert codebook_usage(even).share == 0.5
    assert codebook_usage(even).perplexity == pytest.approx(2)
    assert 1 < codebook_usage(uneven).perplexity < 2


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).normal(5, 2, 2000)
    low, high = mean_interval(values)
    error = 1.96 * values.std() / np.sqrt(len(values))
    np.testing.assert_allclose([low, high], values.mean() + [-error, error], atol=0.02)
