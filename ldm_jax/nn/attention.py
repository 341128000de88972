"""Softmax attention behind one function."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from ldm_jax.nn.attention_on_cpu import attention_on_cpu
from ldm_jax.nn.placement import platform

# Above this size a device never holds its [b n l_q l_kv] float32 logits at once.
_MAX_LOGITS_BYTES = 2**28
# On a TPU they are not to leave the chip, whose vector memory this is (v5e).
_TPU_LOGITS_BYTES = 2**27


def attention(
    q: Float[Array, "b l n d"],
    k: Float[Array, "b m n d"],
    v: Float[Array, "b m n d"],
) -> Float[Array, "b l n d"]:
    """`softmax(q k^T / sqrt(d)) v` for each of n heads; the softmax is float32.

    One of five programs with the same result, chosen from device and shapes: on one CPU
    `attention_on_cpu`, cuDNN's fused kernel where it applies, plain products while the
    logits are small, otherwise a few heads at a time on a TPU, blocks of queries
    elsewhere. The latter two compute the logits again in the backward pass.
    """
    if platform() == "cpu" and jax.sharding.get_abstract_mesh().size <= 1:
        return attention_on_cpu(q, k, v)
    if _has_fused_kernel(q):
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    b, length, n, _ = q.shape
    on_tpu = platform() == "tpu"
    limit = _TPU_LOGITS_BYTES if on_tpu else _MAX_LOGITS_BYTES
    num_parts = _num_parts(b)
    logits_bytes = 4 * b // num_parts * n * length * k.shape[1]
    if logits_bytes <= limit:
        return jax.nn.dot_product_attention(q, k, v, implementation="xla")
    if on_tpu:
        attend = functools.partial(_headwise_attention, limit=limit // 2)
    else:
        num_blocks = min(length, -(-logits_bytes // limit))
        attend = functools.partial(_blockwise_attention, num_blocks=num_blocks)
    if num_parts > 1:  # XLA finds better fusions in a program of one device
        rows = P(jax.sharding.get_abstract_mesh().axis_names)
        attend = jax.shard_map(attend, in_specs=rows, out_specs=rows)
    return attend(q, k, v)


def _num_parts(batch_size: int) -> int:
    """Over how many devices of the mesh in context a batch is split.

    See `training.sharding.on_mesh`. Without a mesh 1, so that a batch spread over many
    devices would be cut into as many blocks more, run one after the other.
    """
    num_devices = max(jax.sharding.get_abstract_mesh().size, 1)
    return 1 if batch_size % num_devices else num_devices


def _divisors(number: int) -> list[int]:
    return [i for i in range(1, number + 1) if number % i == 0]


def _has_fused_kernel(q: Array) -> bool:
    """Half precision and narrow heads on an NVIDIA GPU of the Ampere generation or later."""
    capability = getattr(jax.devices()[0], "compute_capability", "")  # such as "9.0"
    generation = capability.partition(".")[0]
    head_dim = q.shape[-1]
    return (
        generation.isdecimal()
        and int(generation) >= 8
        and q.dtype in (jnp.bfloat16, jnp.float16)
        and head_dim % 8 == 0
        and head_dim <= 128
    )


def _headwise_attention(q: Array, k: Array, v: Array, limit: int) -> Array:
    """As many heads at a time, of however many examples, as have logits of `limit` bytes.

    By XLA's cost model for v5e a third of the time of plain products at 1024 pixels, for
    the logits are never written to memory. Of long sequences a part of the queries at a
    time, so that it can be two heads: with one alone XLA finds no such fusion.
    """
    b, length, n, d = q.shape
    head_bytes = 4 * length * k.shape[1]
    cuts = min(c for c in _divisors(length) if 2 * head_bytes <= c * limit)
    at_once = max(i for i in _divisors(b * n) if i * head_bytes <= cuts * limit)

    def grouped(x):  # [b l n d] -> [step l head d]
        x = x.swapaxes(1, 2)
        return x.reshape(-1, at_once, *x.shape[2:]).swapaxes(1, 2)

    @jax.checkpoint
    def attend(heads):
        return jax.nn.dot_product_attention(*heads, implementation="xla")

    def attend_all(q):
        out = lax.map(attend, (grouped(q), grouped(k), grouped(v)))
        return out.swapaxes(1, 2).reshape(b, n, -1, d).swapaxes(1, 2)

    if cuts == 1:
        return attend_all(q)
    parts = q.reshape(b, cuts, -1, n, d).swapaxes(0, 1)
    return lax.map(attend_all, parts).swapaxes(0, 1).reshape(q.shape)


def _blockwise_attention(q: Array, k: Array, v: Array, num_blocks: int) -> Array:
    b, length, n, d = q.shape
    block = -(-length // num_blocks)
    q = jnp.pad(q, ((0, 0), (0, num_blocks * block - length), (0, 0), (0, 0)))
    blocks = q.reshape(b, num_blocks, block, n, d).swapaxes(0, 1)

    @jax.checkpoint
    def attend(q_block):
        return jax.nn.dot_product_attention(q_block, k, v, implementation="xla")

    out = lax.map(attend, blocks).swapaxes(0, 1)  # [b num_blocks block n d]
    return out.reshape(b, num_blocks * block, n, d)[:, :length]
