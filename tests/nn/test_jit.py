"""`jit` asks for Eigen's convolutions on a CPU, and for nothing elsewhere."""

import jax
import jax.numpy as jnp
import pytest

from ldm_jax.nn.convolution import convolve
from ldm_jax.nn.jit import jit

X, KERNEL = jnp.ones((2, 16, 16, 32)), jnp.ones((3, 3, 32, 32))


def padded(x, kernel):
    return convolve(x, kernel, padding=((1, 1), (1, 1)))


def yields_to_ynnpack(compiled):
    """Whether a fusion of the program, which YNNPACK computes, holds the convolution."""
    text = compiled.as_text()
    return "__ynn_fusion" in text and " convolution(" in text.split("ENTRY")[0]


def test_convolutions_are_not_left_to_ynnpack():
    assert not yields_to_ynnpack(jit(padded).lower(X, KERNEL).compile())


def test_jax_alone_leaves_them_to_ynnpack():
    """If this fails, jax has changed its mind, and `jit` may no longer be needed."""
    if jax.__version_info__ >= (0, 11):
        pytest.skip("measured for jax 0.10")
    assert yields_to_ynnpack(jax.jit(padded).lower(X, KERNEL).compile())


def test_the_result_is_the_same():
    x = jax.random.normal(jax.random.key(0), X.shape)
    kernel = jax.random.normal(jax.random.key(1), KERNEL.shape)
    ours, plain = jit(padded)(x, kernel), jax.jit(padded)(x, kernel)
    assert jnp.allclose(ours, plain, atol=1e-4)


def test_programs_for_other_platforms_are_asked_for_nothing(monkeypatch):
    asked = []
    monkeypatch.setattr(jax, "jit", lambda f, **options: asked.append(options))
    jit(padded, platform="tpu", donate_argnums=0)
    assert asked == [{"compiler_options": None, "donate_argnums": 0}]
