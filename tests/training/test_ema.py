"""The exponential moving average against the reference's numbers."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.training.ema import constant, ema, ramp

GOLDEN = Path(__file__).parents[1] / "golden"


def test_ramp_matches_the_reference():
    expected = np.load(GOLDEN / "ema_ramp.npz")["out/ema"]
    average_fn = ema(ramp(0.9999), ("a",))
    average = average_fn.init({"a": jnp.float32(0), "b": jnp.float32(9)})
    values = []
    for n in range(1, 21):
        average = average_fn.update(average, {"a": jnp.float32(n)}, n)
        values.append(float(average["a"]))
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert set(average) == {"a"}


def test_ramp_ends_at_the_decay():
    assert float(ramp(0.9999)(1)) == pytest.approx(2 / 11)
    assert float(ramp(0.9999)(10**6)) == pytest.approx(0.9999, abs=1e-7)


def test_constant_decay():
    average_fn = ema(constant(0.9), ("a",))
    average = average_fn.update({"a": jnp.float32(1)}, {"a": jnp.float32(0)}, 1)
    assert float(average["a"]) == pytest.approx(0.9)


def test_average_of_bfloat16_parameters_is_float32():
    average_fn = ema(constant(0.9999), ("a",))
    average = average_fn.init({"a": jnp.zeros((), jnp.bfloat16)})
    average = average_fn.update(average, {"a": jnp.ones((), jnp.bfloat16)}, 1)
    assert average["a"].dtype == jnp.float32
    assert float(average["a"]) == pytest.approx(1e-4, rel=1e-3)


def test_unknown_group_is_refused():
    with pytest.raises(ValueError, match=r"the EMA averages \['b'\]"):
        ema(ramp(), ("b",)).init({"a": jnp.zeros(1)})
