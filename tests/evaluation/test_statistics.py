import numpy as np
import pytest

from ldm_jax.evaluation import statistics
from ldm_jax.evaluation.statistics import Moments, merge_all, over_processes
from tests.evaluation.feature_sets import feature_set


def assert_equal(ours, features, rtol=1e-12):
    rows = features.astype(np.float64)
    np.testing.assert_allclose(ours.mean, rows.mean(axis=0), rtol=rtol)
    expected = np.cov(rows, rowvar=False)
    np.testing.assert_allclose(ours.covariance, expected, rtol=1e-9, atol=1e-12)
    assert ours.count == len(features)


def test_merged_batches_are_the_whole():
    features = feature_set(200)
    parts = np.split(features, [1, 3, 90, 90])
    assert_equal(merge_all(Moments.of(part) for part in parts), features)


def test_a_large_offset_costs_no_digits():
    features = feature_set(300).astype(np.float64) + 1e7
    merged = merge_all(Moments.of(part) for part in np.split(features, 10))
    np.testing.assert_allclose(
        merged.covariance, np.cov(features, rowvar=False), rtol=1e-6, atol=1e-8
    )


def test_a_covariance_makes_the_round_trip():
    moments = Moments.of(feature_set(50))
    again = Moments.from_covariance(moments.mean, moments.covariance, 50)
    np.testing.assert_allclose(again.covariance, moments.covariance, rtol=1e-12)
    unknown = Moments.from_covariance(moments.mean, moments.covariance, 0)
    np.testing.assert_array_equal(unknown.covariance, moments.covariance)


def test_gathering_over_one_process_keeps_every_bit():
    moments = Moments.of(feature_set(50))
    gathered = over_processes(moments)
    np.testing.assert_array_equal(gathered.scatter, moments.scatter)
    np.testing.assert_array_equal(gathered.mean, moments.mean)
    rows = feature_set(7)
    np.testing.assert_array_equal(statistics.gather_rows(rows), rows)


def test_processes_with_unequal_shares_are_joined(monkeypatch):
    first, second = feature_set(30), feature_set(11, seed=1)
    shares = iter([])

    def allgather(x, tiled):
        """Both processes' arrays, as `process_allgather` stacks them."""
        assert x.dtype.itemsize == 4, "float64 would be rounded on the device"
        other = next(shares)
        return np.stack([x, np.resize(other, x.shape).astype(x.dtype)])

    monkeypatch.setattr(statistics.multihost_utils, "process_allgather", allgather)
    theirs = Moments.of(second)
    sent = (np.array([float(theirs.count)]), theirs.mean, theirs.scatter)
    shares = iter([x.reshape(-1).view(np.uint32) for x in sent])
    joined = over_processes(Moments.of(first))
    assert_equal(joined, np.concatenate([first, second]))

    padded = np.zeros_like(first)
    padded[: len(second)] = second
    shares = iter([np.array([float(len(second))]).view(np.uint32), padded])
    rows = statistics.gather_rows(first)
    np.testing.assert_array_equal(rows, np.concatenate([first, second]))


def test_features_of_two_networks_are_not_merged():
    with pytest.raises(ValueError, match="width 24 and 8"):
        Moments.of(feature_set(5)).merge(Moments.of(feature_set(5, 8)))
