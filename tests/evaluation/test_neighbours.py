import numpy as np
import pytest

from ldm_jax.evaluation import neighbours
from ldm_jax.evaluation.neighbours import density_coverage, precision_recall
from tests.evaluation.feature_sets import feature_set

REAL, FAKE = feature_set(150), feature_set(120, shift=0.4, seed=1)


def distances(x, y):
    return np.linalg.norm(x[:, None].astype(np.float64) - y[None], axis=-1)


def radii(x, k):
    return np.sort(distances(x, x), axis=1)[:, k]  # the first is the point itself


def test_precision_and_recall_are_their_definition():
    inside = distances(REAL, FAKE) <= radii(REAL, 3)[:, None]
    covered = distances(REAL, FAKE) <= radii(FAKE, 3)[None]
    ours = precision_recall(REAL, FAKE)
    assert ours.precision == pytest.approx(inside.any(axis=0).mean())
    assert ours.recall == pytest.approx(covered.any(axis=1).mean())
    assert ours.precision_interval.low <= ours.precision
    assert ours.precision <= ours.precision_interval.high


def test_density_and_coverage_are_their_definition():
    inside = distances(REAL, FAKE) < radii(REAL, 5)[:, None]
    ours = density_coverage(REAL, FAKE)
    assert ours.density == pytest.approx(inside.sum(axis=0).mean() / 5)
    assert ours.coverage == pytest.approx(inside.any(axis=1).mean())


def test_the_size_of_the_blocks_changes_nothing(monkeypatch):
    expected = precision_recall(REAL, FAKE), density_coverage(REAL, FAKE)
    monkeypatch.setattr(neighbours, "BLOCK", 32)
    assert (precision_recall(REAL, FAKE), density_coverage(REAL, FAKE)) == expected


def test_a_set_is_precise_and_complete_for_itself():
    ours = precision_recall(REAL, REAL)
    assert (ours.precision, ours.recall) == (1.0, 1.0)
    assert density_coverage(REAL, REAL).coverage == 1.0


def test_an_outlier_raises_recall_but_not_coverage():
    # The reason for density and coverage: one far fake makes a ball that holds all.
    outlier = np.concatenate([FAKE[:20] + 100, FAKE[:1] - 300])
    assert precision_recall(REAL, outlier).recall == 1.0
    assert density_coverage(REAL, outlier).coverage == 0.0


def test_too_few_pictures_are_refused():
    with pytest.raises(ValueError, match="3 picture"):
        precision_recall(REAL[:3], FAKE)
