"""Softmax attention behind one function."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Above this size a device never holds its [b n l_q l_kv] float32 logits at once.
_MAX_LOGITS_BYTES = 2**28


def attention(
    q: Float[Array, "b l n d"],
    k: Float[Array, "b m n d"],
    v: Float[Array, "b m n d"],
) -> Float[Array, "b l n d"]:
    """`softmax(q k^T / sqrt(d)) v` for each of n heads; the softmax is float32.

    One of three programs with the same result, chosen from device and shapes:
    cuDNN's fused kernel where it applies, plain products while the logits are small,
    otherwise blocks of queries whose logits are recomputed in the backward pass.
    """
    if _has_fused_kernel(q):
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    b, length, n, _ = q.shape
    logits_bytes = 4 * _rows_on_a_device(b) * n * length * k.shape[1]
    if logits_bytes <= _MAX_LOGITS_BYTES:
        return jax.nn.dot_product_attention(q, k, v, implementation="xla")
    num_blocks = min(length, -(-logits_bytes // _MAX_LOGITS_BYTES))
    return _blockwise_attention(q, k, v, num_blocks)


def _rows_on_a_device(batch_size: int) -> int:
    """Of a batch split over the mesh in context, see `training.sharding.on_mesh`.

    Without one all of it, so that a batch spread over many devices would be cut into as
    many blocks more, run one after the other.
    """
    num_devices = max(jax.sharding.get_abstract_mesh().size, 1)
    return batch_size if batch_size % num_devices else batch_size // num_devices


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
