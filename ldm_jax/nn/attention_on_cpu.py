"""Attention for the CPU: a few heads at a time, so that their logits stay in its cache.

XLA's CPU backend computes the usual formula over all heads at once, and is 3 to 6 times
slower (see BENCHMARKS.md): the logits go to memory and back, some of the exponentials are
not vectorised, and the gradient's products of a transposed matrix of logits with one that
has few columns take 10 times as long as the transposed products. The gradient here
computes the probabilities again (Dao et al. 2022, https://arxiv.org/abs/2205.14135).
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Of the float32 logits that are computed at once.
_MAX_LOGITS_BYTES = 2**22


def attention_on_cpu(
    q: Float[Array, "b l n d"],
    k: Float[Array, "b m n d"],
    v: Float[Array, "b m n e"],
) -> Float[Array, "b l n e"]:
    """`softmax(q k^T / sqrt(d)) v` for each of n heads, float32 throughout.

    It has reverse-mode derivatives, of any order, but no `jax.jvp`.
    """
    b, length, n, d = q.shape
    m = k.shape[1]
    num_heads, num_blocks = _sizes(b * n, length, m)
    block = -(-length // num_blocks)
    padding = num_blocks * block - length

    def by_head(x: Array) -> Array:
        x = x.astype(jnp.float32).swapaxes(1, 2)  # [b l n d] -> [b n l d]
        return x.reshape(-1, num_heads, *x.shape[2:])

    q32 = jnp.pad(q, ((0, 0), (0, padding), (0, 0), (0, 0))) / math.sqrt(d)
    q32 = by_head(q32)  # [groups heads l d]
    q32 = q32.reshape(*q32.shape[:2], num_blocks, block, d).swapaxes(1, 2)
    out = _map(_attend_in_blocks, (q32, by_head(k), by_head(v)))
    out = out.swapaxes(1, 2).reshape(b, n, num_blocks * block, -1)[:, :, :length]
    return out.swapaxes(1, 2).astype(q.dtype)


def _sizes(heads: int, length: int, context: int) -> tuple[int, int]:
    """Heads at a time, a divisor of all, and into how many blocks their queries go."""
    logits = 4 * length * context
    fitting = max(1, min(heads, _MAX_LOGITS_BYTES // logits))
    num_heads = next(n for n in range(fitting, 0, -1) if heads % n == 0)
    return num_heads, min(length, -(-num_heads * logits // _MAX_LOGITS_BYTES))


@jax.custom_vjp
def _attend_in_blocks(qkv: tuple[Array, Array, Array]) -> Array:
    """Queries `[blocks h l d]`, keys and values `[h m d]` -> `[blocks h l d]`."""
    return _forward(qkv)[0]


def _forward(qkv):
    q, k, v = qkv

    def attend(q):
        logits = _product(q, k, 2, 2)
        highest = logits.max(-1, keepdims=True)
        weights = jnp.exp(logits - highest)
        total = weights.sum(-1, keepdims=True)
        # Division before the product: XLA then vectorises the exponentials.
        return _product(weights / total, v, 2, 1), highest + jnp.log(total)

    out, log_total = _map(attend, q)
    return out, (qkv, out, log_total)


def _backward(residuals, g):
    (q, k, v), out, log_total = residuals

    def add_block(sums, block):
        q, out, log_total, g = block
        weights = jnp.exp(_product(q, k, 2, 2) - log_total)
        mean = (out * g).sum(-1, keepdims=True)
        logits_g = weights * (_product(g, v, 2, 2) - mean)
        of_k = _product(q, logits_g, 1, 1)  # [h d m]
        of_v = _product(g, weights, 1, 1)
        return (sums[0] + of_k, sums[1] + of_v), _product(logits_g, k, 2, 1)

    blocks = (q, out, log_total, g)
    zeros = tuple(jnp.zeros_like(x.swapaxes(1, 2)) for x in (k, v))
    if len(q) == 1:
        sums, of_q = add_block(zeros, jax.tree.map(lambda x: x[0], blocks))
        of_q = of_q[None]
    else:
        sums, of_q = lax.scan(add_block, zeros, blocks)
    return ((of_q, *(x.swapaxes(1, 2) for x in sums)),)


_attend_in_blocks.defvjp(_forward, _backward)


def _product(a: Array, b: Array, axis_of_a: int, axis_of_b: int) -> Array:
    """One product for each head, summed over these axes."""
    return lax.dot_general(a, b, (((axis_of_a,), (axis_of_b,)), ((0,), (0,))))


def _map(fn, xs):
    """`fn` along the leading axis; no loop around one, in which XLA optimises less."""
    if len(jax.tree.leaves(xs)[0]) > 1:
        return lax.map(fn, xs)
    out = fn(jax.tree.map(lambda x: x[0], xs))
    return jax.tree.map(lambda x: x[None], out)
