"""The time embedding against recorded numbers of the reference."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn.embeddings import timestep_embedding

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "timestep_embedding.npz")


@pytest.mark.parametrize("dim", [32, 33, 224])
def test_time_embedding_matches_the_reference(dim):
    ours = timestep_embedding(jnp.asarray(GOLDEN["in/t"]), dim)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, GOLDEN[f"out/dim{dim}"], atol=1e-6)


def test_fractional_times_lie_between_whole_ones():
    low, middle, high = timestep_embedding(jnp.array([10.0, 10.5, 11.0]), 32)[:, 20]
    assert min(low, high) < middle < max(low, high)
