import json

import numpy as np
import pytest

from ldm_jax.evaluation.extraction import Features
from ldm_jax.evaluation.frechet import frechet_distance
from ldm_jax.evaluation.references import Reference, read_reference, write_reference
from ldm_jax.evaluation.statistics import Moments
from tests.evaluation.feature_sets import feature_set

POOL, SPATIAL = feature_set(60), feature_set(60, 10)
FEATURES = Features(
    {"pool": Moments.of(POOL), "spatial": Moments.of(SPATIAL)}, {"pool": POOL}
)


def test_a_reference_makes_the_round_trip(tmp_path):
    recipe = {"source": "emoji64:train", "image_size": [64, 64], "count": 60}
    write_reference(tmp_path / "stats.npz", Reference(FEATURES, recipe))
    again = read_reference(tmp_path / "stats.npz")
    assert again is not None
    assert again.recipe == recipe
    assert again.features.count == 60
    np.testing.assert_array_equal(again.features.rows["pool"], POOL)
    for name, moments in FEATURES.moments.items():
        found = again.features.moments[name]
        np.testing.assert_allclose(found.covariance, moments.covariance, rtol=1e-12)
    assert [p.name for p in tmp_path.iterdir()] == ["stats.npz"]


def test_other_tools_read_ours_by_their_names(tmp_path):
    write_reference(tmp_path / "stats.npz", Reference(FEATURES, {"a": 1}))
    with np.load(tmp_path / "stats.npz") as archive:
        np.testing.assert_allclose(archive["mu"], POOL.mean(axis=0), rtol=1e-6)
        expected = np.cov(POOL.astype(np.float64), rowvar=False)
        np.testing.assert_allclose(archive["sigma"], expected, rtol=1e-9, atol=1e-12)
        assert {"mu_s", "sigma_s"} <= set(archive.files)
        assert json.loads(str(archive["recipe"])) == {"a": 1}


def test_statistics_of_other_tools_are_read(tmp_path):
    path = tmp_path / "fid_stats.npz"
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    np.savez(path, pictures, mu=POOL.mean(axis=0), sigma=np.cov(POOL, rowvar=False))
    reference = read_reference(path)
    assert reference is not None
    assert reference.recipe == {} and reference.features.rows == {}
    moments = reference.features.moments["pool"]
    scale = np.trace(moments.covariance)
    assert frechet_distance(moments, Moments.of(POOL)) < 1e-5 * scale


def test_an_npz_of_pictures_is_no_reference_but_may_become_one(tmp_path):
    np.savez(tmp_path / "pictures.npz", np.zeros((2, 4, 4, 3), np.uint8))
    assert read_reference(tmp_path / "pictures.npz") is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"x": np.zeros(3)}, "holds x where mu and sigma"),
        ({"mu": np.zeros(3), "sigma": np.zeros((2, 2))}, "sigma has shape"),
        ({"mu": np.zeros(2), "sigma": np.full((2, 2), np.nan)}, "not finite"),
    ],
)
def test_what_is_no_reference_is_refused(tmp_path, content, says):
    np.savez(tmp_path / "stats.npz", **content)
    with pytest.raises(ValueError, match=says):
        read_reference(tmp_path / "stats.npz")


def test_missing_and_damaged_files_are_named(tmp_path):
    path = tmp_path / "stats.npz"
    with pytest.raises(FileNotFoundError, match="--make_reference"):
        read_reference(path)
    write_reference(path, Reference(FEATURES))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="cannot be read"):
        read_reference(path)
