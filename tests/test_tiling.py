"""Tiles cover every pixel, blend exactly, and bound the memory."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.tiling import Tiling, tile_weights, tiled

TILING = Tiling((32, 32), (24, 24))


def noise(*shape):
    return jax.random.normal(jax.random.key(0), shape)


def enlarge(x, factor):
    return x.repeat(factor, 1).repeat(factor, 2)


def shrink(x, factor):
    return x[:, ::factor, ::factor]


# 72x40 needs a last tile that is moved back; a tile may exceed one side or both.
SIZES = [(72, 40), (40, 72), (32, 33), (20, 50), (16, 16), (80, 80)]


@pytest.mark.parametrize("size", SIZES)
def test_the_identity_is_exact_at_every_pixel(size):
    x = noise(2, *size, 3)
    np.testing.assert_allclose(tiled(lambda x: x, TILING)(x), x, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_a_constant_is_exact_at_every_pixel(size):
    x = noise(1, *size, 3)
    out = jax.jit(tiled(lambda x: jnp.full_like(x, 0.3), TILING))(x)
    np.testing.assert_allclose(out, np.full(x.shape, np.float32(0.3)), rtol=3e-7)


def test_up_and_down_are_exact():
    x = noise(1, 72, 40, 3)
    up = tiled(lambda x: enlarge(x, 4), TILING, out_scale=4)(x)
    np.testing.assert_allclose(up, enlarge(x, 4), atol=1e-6)
    down = tiled(lambda x: shrink(x, 4), TILING.times(4), out_scale=Fraction(1, 4))
    np.testing.assert_allclose(down(up), x, atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 300), size=st.integers(1, 64), share=st.floats(0.01, 1.0))
def test_every_pixel_lies_in_a_tile_and_no_tile_sticks_out(length, size, share):
    stride = max(1, int(share * size))
    tiling = Tiling((size, 1), (stride, 1))
    covered = np.zeros(length, bool)
    height, _ = tiling.fitted(length, 1)
    for top, left in tiling.starts(length, 1):
        assert 0 <= top <= length - height and left == 0
        covered[top : top + height] = True
    assert covered.all()


def test_the_weights_are_those_of_the_original():
    h, w = 5, 9
    expected = np.empty((h, w, 1))
    for y in range(h):
        for x in range(w):
            v, u = y / (h - 1), x / (w - 1)
            expected[y, x] = min(max(min(v, 1 - v, u, 1 - u), 0.01), 0.5)
    np.testing.assert_allclose(tile_weights(h, w), expected, atol=1e-6)


def test_tiles_are_blended_by_their_weights():
    """Two tiles of constants 0 and 1 that overlap: a slope that weights alone give."""
    x = jnp.concatenate([jnp.zeros((1, 4, 6, 1)), jnp.ones((1, 4, 4, 1))], axis=2)
    tiling = Tiling((4, 6), (4, 4))  # columns 0..5 and 4..9
    out = tiled(lambda x: jnp.full_like(x, 1) * x[:, :1, -1:], tiling)(x)
    left, right = tile_weights(4, 6)[1, 4:, 0], tile_weights(4, 6)[1, :2, 0]
    np.testing.assert_allclose(out[0, 1, 4:6, 0], right / (left + right), atol=1e-6)


def test_several_maps_are_cut_alike_and_absent_ones_stay_absent():
    x, y = noise(1, 72, 40, 2), noise(1, 72, 40, 3)
    fn = tiled(lambda maps: maps[0][..., :1] + maps[1][..., 2:], TILING)
    np.testing.assert_allclose(fn((x, y, None)), x[..., :1] + y[..., 2:], atol=1e-5)


def test_it_keeps_the_type_and_has_a_gradient():
    x = noise(1, 40, 40, 1)
    assert tiled(lambda x: x.astype(jnp.bfloat16), TILING)(x).dtype == jnp.bfloat16
    slope = jax.grad(lambda x: (tiled(jnp.sin, TILING)(x) ** 2).sum())(x)
    np.testing.assert_allclose(slope, np.sin(2 * x), atol=1e-5)


def test_a_picture_of_one_tile_is_a_plain_call():
    calls = []
    tiled(lambda x: calls.append(x.shape) or x, TILING)(noise(3, 32, 20, 1))
    assert calls == [(3, 32, 20, 1)]


def temporary_bytes(fn, side):
    lowered = jax.jit(fn).lower(jax.ShapeDtypeStruct((1, side, side, 4), "float32"))
    analysis = lowered.compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


def test_memory_is_that_of_the_output_and_one_tile():
    kernels = 0.1 * noise(2, 3, 3, 64, 64)

    def wide(x):  # 64 channels inside, as many as 16 outputs
        h = jnp.tile(x, 16)
        for kernel in kernels:
            h = jnp.sin(
                jax.lax.conv_general_dilated(
                    h,
                    kernel,
                    (1, 1),
                    "SAME",
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
            )
        return h[..., :4]

    sides = (64, 256, 512)
    tiles = [temporary_bytes(tiled(wide, TILING), side) for side in sides]
    whole = [temporary_bytes(wide, side) for side in sides]
    outputs = [4 * side**2 * 4 for side in sides]
    for bytes_, output in zip(tiles, outputs, strict=True):
        # Sums and weights, beside what the smallest picture's tiles take.
        assert bytes_ <= tiles[0] + 3 * output
    assert whole[-1] > 5 * tiles[-1]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Tiling((8, 8), (9, 8)), "do not cover"),
        (lambda: Tiling((8, 8), (0, 8)), "do not cover"),
        (
            lambda: tiled(lambda x: shrink(x, 4), TILING, out_scale=Fraction(1, 4))(
                noise(1, 46, 40, 1)
            ),
            "multiples of 4",
        ),
        (
            lambda: tiled(lambda x: enlarge(x, 2), TILING)(noise(1, 40, 40, 1)),
            "out_scale=1",
        ),
    ],
)
def test_a_mistake_is_one_sentence(make, says):
    with pytest.raises(ValueError, match=says) as error:
        make()
    assert "\n" not in str(error.value)
