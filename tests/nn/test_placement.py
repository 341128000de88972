"""Layers under a mesh: parameters come to the rows, not the rows to the parameters."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ldm_jax.nn import attention as attention_module
from ldm_jax.nn.dense import Dense
from ldm_jax.nn.placement import batch_split, gathered, platform
from ldm_jax.training import sharding

needs_eight_devices = pytest.mark.skipif(
    jax.device_count() != 8, reason="needs the eight fake devices of conftest.py"
)


def test_without_a_mesh_nothing_is_constrained():
    jaxpr = jax.make_jaxpr(lambda x: gathered(batch_split(x)))(jnp.ones((8, 4)))
    assert not jaxpr.eqns


@needs_eight_devices
@pytest.mark.parametrize("rows,is_split", [(16, True), (12, False)])
def test_rows_are_split_over_all_devices_if_they_divide(rows, is_split):
    mesh = sharding.make_mesh(2, 4)
    whole = jax.device_put(np.ones((rows, 4)), sharding.replicated(mesh))
    out = jax.jit(sharding.on_mesh(batch_split, mesh))(whole)
    assert (out.sharding.shard_shape(out.shape)[0] == rows // 8) == is_split


@needs_eight_devices
def test_split_kernels_are_gathered_and_activations_stay():
    mesh = sharding.make_mesh(1, 8)
    layer = Dense(64)
    x = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)
    params = layer.init(jax.random.key(0), x)
    placed = jax.device_put(params, NamedSharding(mesh, P()))
    placed["params"]["kernel"] = jax.device_put(
        params["params"]["kernel"], NamedSharding(mesh, P(None, "fsdp"))
    )
    rows = jax.device_put(x, sharding.batch_sharding(mesh))
    apply = jax.jit(sharding.on_mesh(layer.apply, mesh)).lower(placed, rows).compile()
    text = apply.as_text() or ""
    assert "all-gather" in text and "all-to-all" not in text
    out = apply(placed, rows)
    assert out.sharding.shard_shape(out.shape) == (2, 64)
    np.testing.assert_allclose(out, layer.apply(params, x), rtol=1e-5, atol=1e-6)


@needs_eight_devices
def test_platform_is_that_of_the_mesh():
    assert platform() == jax.default_backend()
    mesh = sharding.make_mesh()
    assert sharding.on_mesh(platform, mesh)() == jax.devices()[0].platform


@needs_eight_devices
def test_attention_is_cut_by_what_one_device_holds(monkeypatch):
    """Eight times the batch on eight devices is no reason for more blocks."""
    logits = 4 * 2 * 32 * 32  # of one example
    monkeypatch.setattr(attention_module, "_MAX_LOGITS_BYTES", 2 * logits)
    monkeypatch.setattr(attention_module, "platform", lambda: "gpu")

    def num_blocks(rows, mesh):
        q = jnp.ones((rows, 32, 2, 4))
        fn = sharding.on_mesh(lambda q: attention_module.attention(q, q, q), mesh)
        text = str(jax.make_jaxpr(fn)(q))
        assert text.count("scan[") <= 1
        return int(re.search(r" length=(\d+)", text)[1]) if "scan[" in text else 1

    one, eight = (sharding.make_mesh(devices=jax.devices()[:n]) for n in (1, 8))
    assert [num_blocks(rows, one) for rows in (2, 4, 16)] == [1, 2, 8]
    assert [num_blocks(rows, eight) for rows in (16, 32)] == [1, 2]
    assert num_blocks(4, eight) == 2  # rows that cannot be split are on every device
