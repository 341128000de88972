"""The programs behind `attention` agree with the formula and with one another."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn import attention as module
from ldm_jax.nn import attention_on_cpu as cpu_module
from ldm_jax.nn.attention import attention


def inputs(length, context, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((2, length, 3, 8), (2, context, 3, 8), (2, context, 3, 8))
    pairs = zip(keys, shapes, strict=True)
    return [jax.random.normal(key, shape).astype(dtype) for key, shape in pairs]


def formula(q, k, v):
    logits = np.einsum("blnd,bmnd->bnlm", q, k) / np.sqrt(q.shape[-1])
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bnlm,bmnd->blnd", p / p.sum(-1, keepdims=True), v)


@pytest.fixture(params=["cpu", "gpu"])
def platform(request, monkeypatch):
    """Programs of both kinds, run on a CPU."""
    monkeypatch.setattr(module, "platform", lambda: request.param)
    return request.param


def limit_logits(monkeypatch, limit):
    monkeypatch.setattr(cpu_module, "_MAX_LOGITS_BYTES", limit)
    monkeypatch.setattr(module, "_MAX_LOGITS_BYTES", limit)


def loss(q, k, v):
    return jnp.square(attention(q, k, v)).sum()


@pytest.mark.parametrize("context", [37, 5, 1])
@pytest.mark.usefixtures("platform")
def test_attention_is_softmax_of_scaled_products(context):
    q, k, v = inputs(37, context)
    expected = formula(*(np.asarray(x, np.float64) for x in (q, k, v)))
    np.testing.assert_allclose(attention(q, k, v), expected, atol=1e-5)


@pytest.mark.parametrize("context", [37, 5])
@pytest.mark.usefixtures("platform")
def test_gradients_are_those_of_the_formula(context):
    q, k, v = inputs(37, context)

    def plain(q, k, v):
        out = jax.nn.dot_product_attention(q, k, v, implementation="xla")
        return jnp.square(out).sum()

    expected = jax.jit(jax.grad(plain, (0, 1, 2)))(q, k, v)
    for ours, theirs in zip(
        jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v), expected, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


# On a CPU: one query of one head at a time, blocks of queries, one head, two of the six.
@pytest.mark.parametrize("limit", [1, 4 * 37 * 10, 4 * 37 * 37, 2 * 4 * 37 * 37 + 5])
@pytest.mark.usefixtures("platform")
def test_blocks_change_neither_value_nor_gradient(monkeypatch, limit):
    q, k, v = inputs(37, 37)  # a prime length: the last block is padded
    whole = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(q, k, v)
    limit_logits(monkeypatch, limit)
    blocks = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(q, k, v)
    for a, b in zip(jax.tree.leaves(blocks), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("platform")
def test_blocks_never_hold_all_logits(monkeypatch):
    limit_logits(monkeypatch, 2**16)
    q = jax.ShapeDtypeStruct((1, 1024, 1, 8), jnp.float32)
    memory = jax.jit(jax.grad(loss)).lower(q, q, q).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * 1024**2 / 4


def test_heads_are_not_taken_one_by_one_where_several_devices_share_them():
    q = jax.ShapeDtypeStruct((8, 64, 4, 8), jnp.float32)
    alone = jax.jit(attention).lower(q, q, q).as_text()
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        together = jax.jit(attention).lower(q, q, q).as_text()
    assert "8x4x64x8" in alone.replace("32x64x8", "8x4x64x8")
    assert "32x64x8" not in together


@pytest.mark.usefixtures("platform")
def test_softmax_is_float32_for_bfloat16_inputs():
    q, k, v = inputs(37, 64, jnp.bfloat16)
    out = attention(q, k, v)
    assert out.dtype == jnp.bfloat16
    expected = formula(*(np.asarray(x, np.float64) for x in (q, k, v)))
    # Values up to 1.3: only the probabilities and the result are rounded to bfloat16.
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, atol=1e-2)


@pytest.mark.parametrize(
    ("capability", "dtype", "head_dim", "expected"),
    [
        ("9.0", jnp.bfloat16, 64, True),
        ("12.0", jnp.float16, 128, True),
        ("7.5", jnp.bfloat16, 64, False),
        ("gfx942", jnp.bfloat16, 64, False),
        ("9.0", jnp.float32, 64, False),
        ("9.0", jnp.bfloat16, 512, False),
        ("9.0", jnp.bfloat16, 20, False),
    ],
)
def test_the_fused_kernel_is_asked_for_only_where_it_exists(
    monkeypatch, capability, dtype, head_dim, expected
):
    device = SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    q = jax.ShapeDtypeStruct((1, 4, 1, head_dim), dtype)
    assert module._has_fused_kernel(q) is expected
