import jax
import numpy as np
import pytest

from ldm_jax.evaluation import extraction
from ldm_jax.evaluation.extraction import extract_all
from tests.evaluation.tiny_network import tiny_network

PIXELS = np.random.default_rng(0).integers(0, 256, (21, 8, 8, 3)).astype(np.uint8)
NETWORK = tiny_network()


def directly(pixels):
    return jax.jit(NETWORK.apply)(NETWORK.params, pixels)


@pytest.mark.parametrize("batch_size", [8, 5])  # over eight devices, and on one
def test_batches_and_devices_change_no_statistics(batch_size, monkeypatch):
    monkeypatch.setattr(extraction, "BUFFERED_ROWS", 10)
    batches = [PIXELS[i : i + batch_size] for i in range(0, 21, batch_size)]
    found = extract_all(NETWORK, batches, batch_size=batch_size, keep=("logits",))
    expected = {name: np.asarray(x) for name, x in directly(PIXELS).items()}
    assert found.count == 21
    np.testing.assert_allclose(found.rows["logits"], expected["logits"], atol=1e-5)
    for name in ("pool", "spatial"):
        moments = found.moments[name]
        np.testing.assert_allclose(moments.mean, expected[name].mean(0), atol=1e-5)
        covariance = np.cov(expected[name].astype(np.float64), rowvar=False)
        np.testing.assert_allclose(moments.covariance, covariance, atol=1e-5)


def test_rows_that_no_metric_needs_are_not_kept():
    assert extract_all(NETWORK, [PIXELS], batch_size=21).rows == {}


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="no pictures"):
        extract_all(NETWORK, [], batch_size=4)
