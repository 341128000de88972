"""Heads in turn, as on a TPU: the same numbers, and no row leaves its device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn import attention as module
from ldm_jax.training import sharding

HEAD = 4 * 16 * 24  # bytes of a head's logits


def inputs(rows, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((rows, 16, 3, 8), (rows, 24, 3, 8), (rows, 24, 3, 8))
    return [jax.random.normal(*pair, dtype) for pair in zip(keys, shapes, strict=True)]


def value_and_gradient(fn, arguments):
    def loss(*arguments):
        return jnp.square(fn(*arguments)).sum()

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*arguments)


def plain(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, implementation="xla")


def loops(jaxpr):
    """Lengths of the scans in it, outermost first."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["length"]
        for value in equation.params.values():
            if inner := getattr(
                value, "jaxpr", value if hasattr(value, "eqns") else None
            ):
                yield from loops(inner)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (6 * HEAD, [1]),  # all six heads of two rows
        (4 * HEAD, [2]),
        (2 * HEAD, [3]),
        (HEAD, [2, 3]),  # half of the queries of two heads
        (HEAD // 4, [8, 3]),
    ],
)
def test_heads_in_turn_change_neither_value_nor_gradient(limit, expected):
    arguments = inputs(2)

    def fn(q, k, v):
        return module._headwise_attention(q, k, v, limit)

    assert list(loops(jax.make_jaxpr(fn)(*arguments))) == expected
    ours, whole = (value_and_gradient(f, arguments) for f in (fn, plain))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(jax.device_count() != 8, reason="needs conftest's fake devices")
@pytest.mark.parametrize("fsdp", [1, 8])
def test_every_device_attends_to_its_own_rows(fsdp, monkeypatch):
    monkeypatch.setattr(module, "platform", lambda: "tpu")
    monkeypatch.setattr(module, "_TPU_LOGITS_BYTES", 4 * HEAD)
    mesh = sharding.make_mesh(-1, fsdp)
    whole = inputs(16)
    arguments = jax.device_put(whole, sharding.batch_sharding(mesh))
    fn = sharding.on_mesh(module.attention, mesh)
    # Two rows a device: six heads, two of them at a time.
    assert list(loops(jax.make_jaxpr(fn)(*arguments))) == [3]

    def gradient(q, k, v):
        out, pullback = jax.vjp(fn, q, k, v)
        return out, pullback(out)

    text = jax.jit(gradient).lower(*arguments).compile().as_text() or ""
    for exchange in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert exchange not in text
    ours = value_and_gradient(fn, arguments)
    expected = value_and_gradient(plain, whole)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_few_logits_are_taken_at_once(monkeypatch):
    monkeypatch.setattr(module, "platform", lambda: "tpu")
    jaxpr = jax.make_jaxpr(module.attention)(*inputs(2))
    assert not list(loops(jaxpr))


def test_softmax_is_float32_for_bfloat16_inputs():
    q, k, v = inputs(2, jnp.bfloat16)
    ours = module._headwise_attention(q, k, v, 2 * HEAD)
    assert ours.dtype == jnp.bfloat16
    exact = plain(*(x.astype(jnp.float32) for x in (q, k, v)))
    np.testing.assert_allclose(ours.astype(jnp.float32), exact, atol=2e-2)
