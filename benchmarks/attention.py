"""Rows of attention alone, against torch's scaled_dot_product_attention."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import references
from benchmarks.compiled import compiled
from benchmarks.rows import Setting, Sides
from ldm_jax.nn.attention import attention

Shape = tuple[int, int, int, int]  # [b l n d]


def forward(setting: Setting, shape: Shape) -> Sides:
    """`softmax(q k^T / sqrt(d)) v`."""
    return _sides(setting, shape, jax.jit(attention), _forward)


def gradient(setting: Setting, shape: Shape) -> Sides:
    """Its gradient with respect to q, k and v."""

    def loss(q, k, v, weight):
        return jnp.sum((attention(q, k, v) * weight).astype(jnp.float32))

    return _sides(setting, shape, jax.jit(jax.grad(loss, (0, 1, 2))), _gradient, 4)


def _forward(q: Any, k: Any, v: Any) -> Any:
    import torch

    with torch.no_grad():
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)


def _gradient(q: Any, k: Any, v: Any, weight: Any) -> Any:
    import torch

    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return torch.autograd.grad(out, (q, k, v), weight)


def _sides(
    setting: Setting, shape: Shape, jitted: Any, theirs: Any, count: int = 3
) -> Sides:
    random = np.random.default_rng(0)
    given = [random.standard_normal(shape, np.float32) for _ in range(count)]
    arrays = [jnp.asarray(x, setting.dtype) for x in given]
    ours = compiled(jitted, *arrays)
    calls = {}
    if setting.references:
        # [b l n d] -> [b n l d], torch's order.
        tensors = [
            references.tensor(setting, x)
            .permute(0, 2, 3, 1)
            .transpose(1, 2)
            .contiguous()
            for x in given
        ]
        for x in tensors[:3]:
            x.requires_grad_(count > 3)
        calls = {
            "torch SDPA": references.finished(setting, lambda: theirs(*tensors)),
        }
    return Sides(
        lambda: jax.block_until_ready(ours.call(*arrays)),
        calls,
        peak_bytes=ours.peak_bytes,
        compile_seconds=ours.seconds,
    )
