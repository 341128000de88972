import numpy as np
import pytest

from ldm_jax.evaluation.extraction import Features
from ldm_jax.evaluation.sample_metrics import NEEDS, compute, metric_name
from ldm_jax.evaluation.statistics import Moments
from tests.evaluation.feature_sets import feature_set
from tests.evaluation.tiny_network import tiny_network


def features(count, *, shift=0.0, seed=0):
    pool, spatial = feature_set(count, shift=shift, seed=seed), feature_set(count, 6)
    logits = feature_set(count, 9, seed=seed)
    moments = {"pool": Moments.of(pool), "spatial": Moments.of(spatial)}
    return Features(moments, {"pool": pool, "logits": logits})


REAL, FAKE = features(120), features(100, shift=0.2, seed=1)
PUBLISHED = tiny_network("inception", is_published=True)


def test_every_metric_has_its_number():
    found = compute(tuple(NEEDS), real=REAL, fake=FAKE, network=PUBLISHED)
    expected = ["fid", "sfid", "kid", "kid_std", "is", "is_std"]
    expected += ["precision", "recall", "density", "coverage"]
    assert sorted(found.values) == sorted(expected)
    assert all(np.isfinite(list(found.values.values())))
    assert found.settings["kid"]["subset_size"] == 100
    low, high = found.intervals["precision"]
    assert low <= found.values["precision"] <= high


def test_small_sets_are_warned_about():
    found = compute(("fid",), real=REAL, fake=FAKE, network=PUBLISHED)
    assert ["100 samples" in w or "120 reference" in w for w in found.warnings] == [
        1,
        1,
    ]


@pytest.mark.parametrize(
    ("name", "is_published", "called"),
    [
        ("inception", True, "fid"),
        ("inception", False, "fd_inception_custom"),
        ("efficientnet_lite0", True, "fd_efficientnet_lite0"),
    ],
)
def test_only_the_published_inception_gives_an_fid(name, is_published, called):
    network = tiny_network(name, is_published=is_published)
    assert metric_name("fid", network) == called
    found = compute(("fid",), real=REAL, fake=FAKE, network=network)
    assert list(found.values) == [called]


@pytest.mark.parametrize(
    ("metric", "real", "network", "says"),
    [
        ("fidd", REAL, PUBLISHED, "no metric 'fidd': choose of fid, sfid"),
        ("is", REAL, tiny_network("efficientnet_lite0"), "--network=inception"),
        ("kid", Features(REAL.moments, {}), PUBLISHED, "--keep_features"),
        ("sfid", Features({"pool": REAL.moments["pool"]}, {}), PUBLISHED, "spatial"),
    ],
)
def test_what_cannot_be_computed_is_refused(metric, real, network, says):
    with pytest.raises(ValueError, match=says):
        compute((metric,), real=real, fake=FAKE, network=network)
