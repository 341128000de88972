"""On the same features, the numbers of torch-fidelity 0.4."""

import importlib.util

import numpy as np
import pytest

from ldm_jax.evaluation.frechet import frechet_distance
from ldm_jax.evaluation.inception_score import inception_score
from ldm_jax.evaluation.kernel_distance import kid
from ldm_jax.evaluation.neighbours import precision_recall
from ldm_jax.evaluation.statistics import Moments
from tests.evaluation.feature_sets import feature_set

pytest.importorskip("torch")
if importlib.util.find_spec("torch_fidelity") is None:
    pytest.skip("torch-fidelity is not installed", allow_module_level=True)

from tests.evaluation import torch_fidelity_metrics as theirs

REAL, FAKE = feature_set(1500), feature_set(1300, shift=0.3, seed=1)


def test_fid_equals_theirs():
    ours = frechet_distance(Moments.of(REAL), Moments.of(FAKE))
    assert ours > 0.1
    np.testing.assert_allclose(ours, theirs.their_fid(REAL, FAKE), rtol=1e-5)


def test_fid_of_singular_covariances_equals_theirs():
    # Fewer pictures than features; theirs takes roots of rounding errors there.
    real, fake = REAL[:16], FAKE[:18]
    ours = frechet_distance(Moments.of(real), Moments.of(fake))
    np.testing.assert_allclose(ours, theirs.their_fid(real, fake), rtol=1e-3)


@pytest.mark.parametrize("shift", [0.05, 0.3])
def test_kid_equals_theirs(shift):
    fake = feature_set(1300, shift=shift, seed=1)
    settings = {"kid_subsets": 10, "kid_subset_size": 500}
    mean, std = theirs.their_kid(fake, REAL, **settings)
    ours = kid(fake, REAL, subsets=10, subset_size=500)
    np.testing.assert_allclose(ours.mean, mean, rtol=1e-3)
    np.testing.assert_allclose(ours.std, std, rtol=1e-3)


def test_inception_score_equals_theirs():
    logits = 3 * feature_set(1003, 40, seed=2)
    ours = inception_score(logits)
    assert ours.mean > 1.5
    np.testing.assert_allclose(ours, theirs.their_inception_score(logits), rtol=1e-6)


def test_precision_and_recall_equal_theirs():
    precision, recall = theirs.their_precision_recall(FAKE, REAL)
    ours = precision_recall(REAL, FAKE)
    assert 0.2 < precision < 0.98 and 0.2 < recall < 0.98
    np.testing.assert_allclose(ours.precision, precision, rtol=1e-3)
    np.testing.assert_allclose(ours.recall, recall, rtol=1e-3)
