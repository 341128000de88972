"""Floating-point operations of a traced function: products and convolutions alone.

XLA's own count (`compiled.cost_analysis`) takes the body of a loop once, however often it
runs, and a sampler is one loop; here every scan counts by its length. Elementwise work is
left out, as is usual for the utilisation of a chip. Of a convolution only the products
with real pixels count, not those with padding, as XLA has it.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters import partial_eval


def count_flops(jaxpr: ClosedJaxpr) -> float:
    """FLOPs of one call, over all devices; recomputed work counts as work.

    The body of a `while_loop`, whose length is not known, counts once; of a `cond`, its
    most expensive branch.
    """
    live, _ = partial_eval.dce_jaxpr(
        jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars), instantiate=True
    )
    return _count(live)


def _count(jaxpr: Jaxpr) -> float:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        return _dot_flops(equation)
    if name == "conv_general_dilated":
        return _convolution_flops(equation)
    inner = [_count(jaxpr) for jaxpr in _inner_jaxprs(equation.params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * _times(name, equation.params)


def _times(name: str, params: dict[str, Any]) -> int:
    """How often the body of an equation runs; that of a shard_map on every device."""
    if name == "scan":
        return params["length"]
    return params["mesh"].size if name == "shard_map" else 1


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def _dot_flops(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    summed = math.prod(left[axis] for axis in contracted)
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * summed


def _convolution_flops(equation: Any) -> float:
    params, (left, right) = equation.params, (v.aval.shape for v in equation.invars)
    numbers = params["dimension_numbers"]
    out = equation.outvars[0].aval.shape
    products = 1.0
    for i in range(len(out) - 2):
        products *= _touching(
            left[numbers.lhs_spec[2 + i]],
            right[numbers.rhs_spec[2 + i]],
            out[numbers.out_spec[2 + i]],
            params["window_strides"][i],
            params["padding"][i][0],
            params["lhs_dilation"][i],
            params["rhs_dilation"][i],
        )
    channels = right[numbers.rhs_spec[1]]  # of one feature group
    batch, features = (out[numbers.out_spec[i]] for i in (0, 1))
    return 2.0 * products * channels * batch * features


def _touching(
    size: int, window: int, out: int, stride: int, low: int, spread: int, dilation: int
) -> int:
    """Pairs of output position and window element that meet an element, along one axis."""
    at = np.arange(out)[:, None] * stride + np.arange(window) * dilation - low
    return int(((at >= 0) & (at < (size - 1) * spread + 1) & (at % spread == 0)).sum())
