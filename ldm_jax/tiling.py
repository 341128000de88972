"""Functions of large pictures, one overlapping tile after another: bounded memory.

The reference's patches ("split_input_params") with its weights. There tiles lie on a
regular grid alone, and what is left at the right and bottom borders becomes 0 / 0, black;
here the last tile of each axis is moved back to the border. Its tie-breaker, a second
weight for each tile as a whole, is left out.
"""

import dataclasses
import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PyTree = Any

# The reference's clip_min_weight and clip_max_weight.
_WEIGHT_RANGE = (0.01, 0.5)


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Tiles of one size, regularly spaced; hashable, a constant of a compiled program.

    Attributes:
      size: height and width of a tile; larger than the picture, it is the picture's.
      stride: from one tile to the next, at most the size.

    Raises:
      ValueError: for a stride that leaves gaps, or none at all.
    """

    size: tuple[int, int]
    stride: tuple[int, int]

    def __post_init__(self):
        for size, stride in zip(self.size, self.stride, strict=True):
            if not 1 <= stride <= size:
                raise ValueError(
                    f"tiles of {self.size} every {self.stride} do not cover a picture: "
                    "make the stride at least 1 and at most the size"
                )

    def times(self, factor: int) -> "Tiling":
        """The same tiles on a grid that is `factor` times as fine."""
        (th, tw), (sh, sw) = self.size, self.stride
        return Tiling((factor * th, factor * tw), (factor * sh, factor * sw))

    def fitted(self, height: int, width: int) -> tuple[int, int]:
        """The size of the tiles of a picture."""
        return min(self.size[0], height), min(self.size[1], width)

    def starts(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top and left of each tile; together they cover every pixel."""
        tops = _axis_starts(height, self.size[0], self.stride[0])
        lefts = _axis_starts(width, self.size[1], self.stride[1])
        return list(itertools.product(tops, lefts))


def _axis_starts(length: int, size: int, stride: int) -> list[int]:
    last = max(length - size, 0)
    starts = list(range(0, last + 1, stride))
    return starts if starts[-1] == last else [*starts, last]


def tile_weights(height: int, width: int) -> Float[Array, "h w 1"]:
    """How much each pixel of a tile counts: its distance to the nearest border.

    As a share of the side, `min(y/(h-1), 1 - y/(h-1), x/(w-1), 1 - x/(w-1))`, clipped to
    [0.01, 0.5].
    """
    y, x = (jnp.arange(size) / max(size - 1, 1) for size in (height, width))
    y, x = jnp.minimum(y, 1 - y), jnp.minimum(x, 1 - x)
    return jnp.clip(jnp.minimum(y[:, None], x), *_WEIGHT_RANGE)[..., None]


def tiled(
    fn: Callable[[PyTree], Array],
    tiling: Tiling | None,
    *,
    out_scale: int | Fraction = 1,
) -> Callable[[PyTree], Array]:
    """`fn` on one tile at a time, its results blended by `tile_weights`.

    Memory beyond input and output is one tile's work and one channel of the output. A
    picture that fits one tile is a plain call. For `jit`; differentiable.

    Args:
      fn: one array or several of the same grid (any pytree), each `[b th tw c]`, to one
        array `[b k*th k*tw d]` with k = `out_scale`. What it closes over, such as the
        tokens of a condition, is the same for all tiles.
      tiling: in pixels of the inputs; None for `fn` as it is.
      out_scale: output pixels for one input pixel: 4 for a decoder with f = 4,
        `Fraction(1, 4)` for its encoder.

    Returns:
      The function of whole pictures, `[b h w c]` to `[b k*h k*w d]`.

    Raises:
      ValueError: if a tile or the picture does not start and end at whole output pixels.
    """
    if tiling is None:
        return fn

    def whole(x: PyTree) -> Array:
        b, h, w = jax.tree.leaves(x)[0].shape[:3]
        size = tiling.fitted(h, w)
        if size == (h, w):
            return fn(x)
        starts = tiling.starts(h, w)
        scaled = [tuple(_scaled(n, out_scale) for n in start) for start in starts]
        out_size = tuple(_scaled(n, out_scale) for n in size)
        out = jax.eval_shape(lambda x: fn(_cut(x, (0, 0), size)), x)
        if out.shape[:3] != (b, *out_size):
            raise ValueError(
                f"tiles of {size} became {out.shape} but out_scale={out_scale} means "
                f"{(b, *out_size)}: give the scale of the function"
            )
        weights = tile_weights(*out_size)

        def add_tile(sums: tuple[Array, Array], start: tuple[Array, Array]):
            total, weight = sums
            y = fn(_cut(x, start[0], size)).astype(jnp.float32)
            total = _add(total, y * weights, start[1])
            return (total, _add(weight, weights[None], start[1])), None

        full = _scaled(h, out_scale), _scaled(w, out_scale)
        sums = (jnp.zeros((b, *full, out.shape[3])), jnp.zeros((1, *full, 1)))
        (total, weight), _ = jax.lax.scan(
            add_tile, sums, (jnp.array(starts), jnp.array(scaled))
        )
        return (total / weight).astype(out.dtype)

    return whole


def _cut(x: PyTree, start: Any, size: tuple[int, int]) -> PyTree:
    def cut(v: Array) -> Array:
        b, _, _, c = v.shape
        return jax.lax.dynamic_slice(v, (0, start[0], start[1], 0), (b, *size, c))

    return jax.tree.map(cut, x)


def _add(total: Array, added: Array, start: Array) -> Array:
    """`total` plus `added`, whose top left corner lies at `start`."""
    at = (0, start[0], start[1], 0)
    before = jax.lax.dynamic_slice(total, at, added.shape)
    return jax.lax.dynamic_update_slice(total, before + added, at)


def _scaled(length: int, scale: int | Fraction) -> int:
    scaled = Fraction(length) * scale
    if scaled.denominator != 1:
        raise ValueError(
            f"{length} pixels are {scaled} output pixels: sizes, strides and pictures "
            f"must be multiples of {Fraction(scale).denominator}"
        )
    return int(scaled)
