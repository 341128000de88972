"""Floating-point operations of traced functions, against XLA's count."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from ldm_jax.compiling.flops import count_flops
from ldm_jax.training import sharding


def flops(fn, *arguments):
    return count_flops(jax.jit(fn).trace(*arguments).jaxpr)


X, W = jnp.zeros((8, 16)), jnp.zeros((16, 16))
PRODUCT = 2 * 8 * 16 * 16


def test_loops_count_by_their_length_and_branches_by_the_dearest():
    def loop(x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ W), None), x, length=7)[0]

    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ W @ W, lambda x: x @ W, x)

    assert flops(loop, X) == 7 * PRODUCT
    assert flops(branch, X) == 2 * PRODUCT


def test_unused_products_do_not_count_and_recomputed_ones_do():
    def loss(w, layer):
        return layer(layer(X, w), w).sum()

    def layer(x, w):
        return jnp.tanh(x @ w)

    def gradient(layer):
        return flops(lambda w: jax.value_and_grad(loss)(w, layer), W)

    assert flops(lambda x: (x @ W, x)[1], X) == 0
    assert gradient(layer) == 5 * PRODUCT  # 2 forward, 3 backward
    assert gradient(jax.checkpoint(layer)) == 7 * PRODUCT


@pytest.mark.parametrize("stride,padding", [(1, 1), (2, 1), (1, 0), (2, 3)])
def test_convolutions_and_their_gradients_count_as_xla_counts_them(stride, padding):
    x, kernel = jnp.zeros((2, 9, 9, 4)), jnp.zeros((3, 3, 4, 6))

    def convolve(x, kernel):
        pads = ((padding, padding),) * 2
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), pads, dimension_numbers=numbers
        )

    def gradients(x, kernel, g):
        return jax.vjp(convolve, x, kernel)[1](g)

    out = jax.eval_shape(convolve, x, kernel)
    for fn, arguments in ((convolve, (x, kernel)), (gradients, (x, kernel, out))):
        traced = jax.jit(fn).trace(*arguments)
        expected = traced.lower(lowering_platforms=("tpu",)).cost_analysis()["flops"]
        assert count_flops(traced.jaxpr) == expected


@pytest.mark.skipif(jax.device_count() != 8, reason="needs conftest's fake devices")
def test_what_runs_on_every_device_counts_for_all_of_them():
    mesh = sharding.make_mesh()
    rows = P(mesh.axis_names)

    def split(x):
        return jax.shard_map(lambda x: x @ W, mesh=mesh, in_specs=rows, out_specs=rows)(
            x
        )

    assert flops(split, X) == PRODUCT
