"""Convolution and dense layers against torch."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn import convolution_on_cpu as on_cpu
from ldm_jax.nn.convolution import Conv, _plain_convolution, convolve
from ldm_jax.nn.dense import Dense

torch = pytest.importorskip("torch")
F = torch.nn.functional


def to_torch(x):
    return torch.from_numpy(np.array(x).transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "torch_padding"),
    [
        (3, 1, 1, (1, 1, 1, 1)),
        (3, 2, 1, (1, 1, 1, 1)),
        (3, 2, ((0, 1), (0, 1)), (0, 1, 0, 1)),
        (4, 2, 1, (1, 1, 1, 1)),
        (1, 1, 0, (0, 0, 0, 0)),
    ],
)
@pytest.mark.parametrize("size", [(8, 10), (7, 9)])
def test_convolution_matches_torch(kernel_size, stride, padding, torch_padding, size):
    conv = Conv(5, kernel_size, stride, padding)
    x = jax.random.normal(jax.random.key(0), (2, *size, 4))
    ours, variables = jax.jit(conv.init_with_output)(jax.random.key(1), x)
    kernel = np.array(variables["params"]["kernel"]).transpose(3, 2, 0, 1)
    expected = F.conv2d(
        F.pad(to_torch(x), torch_padding),
        torch.from_numpy(kernel.copy()),
        torch.from_numpy(np.array(variables["params"]["bias"])),
        stride=stride,
    )
    ours = to_torch(ours)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=2e-6)


FORMS = {
    "a_correlation": {},
    "a_correlation_of_batches": {"_MIN_BATCH_OF_CORRELATION": 1},
    "one_product": {"_MIN_CHANNELS": 1},
    "a_product_for_each_offset": {"_MAX_WINDOWS_BYTES": 0, "_MIN_CHANNELS_OF_LARGE": 1},
    "products_throughout": {"has_fewer_pixels_than_channels": lambda x, kernel: True},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "channels"),
    [
        (3, 1, ((1, 1), (1, 1)), (3, 5)),
        (3, 1, ((1, 1), (1, 1)), (5, 3)),
        (3, 1, ((1, 1), (1, 1)), (4, 4)),
        (3, 2, ((1, 1), (1, 1)), (5, 3)),
        (3, 2, ((0, 1), (0, 1)), (3, 5)),
        (4, 2, ((1, 1), (1, 1)), (3, 5)),
        (4, 1, ((1, 1), (1, 1)), (5, 3)),
        (1, 1, ((0, 0), (0, 0)), (5, 3)),
        (3, 1, ((0, 2), (3, 0)), (5, 3)),
    ],
)
def test_programs_written_for_the_cpu_equal_autodiff(
    monkeypatch, form, kernel_size, stride, padding, channels
):
    for name, value in FORMS[form].items():
        monkeypatch.setattr(on_cpu, name, value)
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (2, 7, 10, channels[0]))
    kernel = jax.random.normal(keys[1], (kernel_size, kernel_size, *channels))

    @jax.jit
    def gradients(x, kernel):
        ours, pull = jax.vjp(
            lambda x, k: convolve(x, k, stride=stride, padding=padding), x, kernel
        )
        plain, plain_pull = jax.vjp(
            lambda x, k: _plain_convolution(x, k, (stride, stride), padding), x, kernel
        )
        cotangent = jnp.sin(plain)
        return (ours, *pull(cotangent)), (plain, *plain_pull(cotangent))

    for ours, plain in zip(*gradients(x, kernel), strict=True):
        assert ours.shape == plain.shape
        np.testing.assert_allclose(ours, plain, atol=1e-5 * np.abs(plain).max())


def convolutions_of(x_shape, kernel_shape):
    """How many convolutions are left in a CPU's program of output and gradients."""

    def loss(x, kernel):
        return jnp.square(convolve(x, kernel, padding=((1, 1), (1, 1)))).sum()

    shapes = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (x_shape, kernel_shape))
    program = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*shapes).as_text()
    return program.count("stablehlo.convolution(")


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "expected"),
    [
        ((1, 8, 8, 896), (3, 3, 896, 896), 0),  # few pixels: products throughout
        ((1, 64, 64, 224), (3, 3, 224, 224), 2),  # for the kernel nine products
        ((2, 16, 16, 64), (3, 3, 64, 64), 2),  # for the kernel one product
        ((1, 64, 64, 16), (3, 3, 16, 16), 3),  # narrow: convolutions throughout
        ((16, 16, 16, 64), (3, 3, 64, 64), 3),  # so for several pictures
    ],
)
def test_the_form_follows_from_the_shape(x_shape, kernel_shape, expected):
    assert convolutions_of(x_shape, kernel_shape) == expected


def test_gradients_in_a_loop_are_in_the_layout_of_the_fast_kernels():
    x, kernel = jnp.zeros((3, 2, 8, 8, 4)), jnp.zeros((3, 3, 4, 5))

    def accumulate(kernel, x):
        def loss(kernel, x):
            return jnp.square(convolve(x, kernel, padding=((1, 1), (1, 1)))).sum()

        def add(total, x):
            return total + jax.grad(loss)(kernel, x), None

        return jax.lax.scan(add, jnp.zeros_like(kernel), x)[0]

    program = jax.jit(accumulate).lower(kernel, x).as_text()
    convolutions = [line for line in program.splitlines() if "convolution(" in line]
    assert len(convolutions) == 2
    layout = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
    assert all(layout in line for line in convolutions)


@pytest.mark.parametrize(
    ("layer", "shape", "fan_in"),
    [(Conv(64, 3), (1, 4, 4, 16), 144), (Dense(4096), (1, 144), 144)],
)
def test_kernel_and_bias_start_as_torch_draws_them(layer, shape, fan_in):
    bound = 1 / math.sqrt(fan_in)
    params = layer.init(jax.random.key(0), jnp.zeros(shape))["params"]
    for name in ("kernel", "bias"):
        assert jnp.abs(params[name]).max() <= bound
    assert params["kernel"].std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert params["bias"].std() == pytest.approx(bound / math.sqrt(3), rel=0.2)


@pytest.mark.parametrize("layer", [Conv(3, 3, padding=1), Dense(3)])
def test_compute_dtype_is_separate_from_parameter_dtype(layer):
    layer = layer.clone(dtype=jnp.bfloat16)
    x = jnp.ones((1, 4, 4, 2))
    y, variables = layer.init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_without_bias_there_is_only_a_kernel():
    x = jnp.ones((1, 4, 4, 2))
    for layer in (Conv(3, use_bias=False), Dense(3, use_bias=False)):
        assert set(layer.init(jax.random.key(0), x)["params"]) == {"kernel"}


def test_programs_for_other_platforms_get_the_gradient_of_autodiff():
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 6))

    def lowered(convolve_fn):
        grad = jax.grad(lambda x, k: jnp.sum(convolve_fn(x, k) ** 2), argnums=(0, 1))
        traced = jax.jit(grad).trace(x, kernel)
        return traced.lower(lowering_platforms=("tpu",)).as_text()

    ours = lowered(lambda x, k: convolve(x, k, padding=((1, 1), (1, 1))))
    plain = lowered(lambda x, k: _plain_convolution(x, k, (1, 1), ((1, 1), (1, 1))))

    def layouts(text):
        return sorted(re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", text))

    assert len(layouts(ours)) == 3
    assert layouts(ours) == layouts(plain)
