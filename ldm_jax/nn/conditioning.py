"""What a denoiser is told beside the noisy latent: tokens, maps and vectors.

Three optional slots take the place of the reference's `conditioning_key` strings:
`crossattn` is `tokens`, `concat` is `concat`, `adm` is `vector` and `hybrid` is two
slots at once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from ldm_jax.arrays import broadcast_to_rank


@struct.dataclass
class Conditioning:
    """A pytree of conditions, batch axis first in every slot; None where absent.

    Attributes:
      tokens: read by cross-attention.
      concat: joined to the noisy latent on the channel axis, after it; same grid.
      vector: added to the time embedding; its width is the backbone's embedding width.
    """

    tokens: Float[Array, "b l d"] | None = None
    concat: Float[Array, "b h w c"] | None = None
    vector: Float[Array, "b d"] | None = None


SLOTS = ("tokens", "concat", "vector")

_MERGE_AXIS = {"tokens": 1, "concat": -1}


def merge(a: Conditioning, b: Conditioning) -> Conditioning:
    """Both conditions at once: tokens and channels end to end, the sum of vectors.

    Vectors are added because the time embedding, which they join, adds them.

    Raises:
      ValueError: if two entries of one slot differ in a size other than the joined one.
    """

    def join(slot: str, x: Array, y: Array) -> Array:
        if slot == "vector":
            return _added(x, y)
        axis = _MERGE_AXIS[slot] % x.ndim
        if _without(x.shape, axis) != _without(y.shape, axis):
            raise ValueError(
                f"cannot merge {slot} of shapes {x.shape} and {y.shape}: "
                f"every size but that of axis {axis} must agree"
            )
        return jnp.concatenate([x, y], axis)

    slots = {}
    for slot in SLOTS:
        x, y = getattr(a, slot), getattr(b, slot)
        slots[slot] = y if x is None else x if y is None else join(slot, x, y)
    return Conditioning(**slots)


def stack(uncond: Conditioning, cond: Conditioning) -> Conditioning:
    """Two batches as one, `uncond` first: the doubled batch of guidance.

    A slot that `uncond` alone leaves empty cannot be left out (the picture to inpaint,
    say) and is `cond`'s in both halves.

    Raises:
      ValueError: if `cond` alone leaves a slot empty, or a slot's shapes differ.
    """

    def join(slot: str, x: Array, y: Array) -> Array:
        if x.shape[1:] != y.shape[1:]:
            raise ValueError(
                f"cannot stack {slot} of shapes {x.shape} and {y.shape}: "
                "only the batch sizes may differ"
            )
        return jnp.concatenate([x, y], axis=0)

    sides = {slot: uncond if _has(uncond, slot) else cond for slot in SLOTS}
    kept = Conditioning(**{slot: getattr(side, slot) for slot, side in sides.items()})
    return _map_pairs(join, kept, cond)


def replace_examples(
    mask: Bool[Array, " b"], cond: Conditioning, other: Conditioning
) -> Conditioning:
    """Take example i from `other` where `mask[i]`, else from `cond`.

    `other` may have batch size 1. With the null condition as `other` this is the
    condition dropout that classifier-free guidance is trained with.
    """

    def choose(slot: str, x: Array, y: Array) -> Array:
        del slot
        return jnp.where(broadcast_to_rank(mask, x.ndim), y, x)

    return _map_pairs(choose, cond, other)


def _map_pairs(
    fn: Callable[[str, Array, Array], Array], a: Conditioning, b: Conditioning
) -> Conditioning:
    slots: dict[str, jax.Array | None] = {}
    for slot in SLOTS:
        x, y = getattr(a, slot), getattr(b, slot)
        if (x is None) != (y is None):
            raise ValueError(
                f"the slot {slot!r} is filled in one conditioning and empty in the "
                "other; both must come from the same conditioner"
            )
        slots[slot] = None if x is None else fn(slot, x, y)
    return Conditioning(**slots)


def _added(x: Array, y: Array) -> Array:
    if x.shape != y.shape:
        raise ValueError(
            f"cannot add vectors of shapes {x.shape} and {y.shape}: both must be as wide "
            "as the backbone's time embedding"
        )
    return x + y


def _has(cond: Conditioning, slot: str) -> bool:
    return getattr(cond, slot) is not None


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]
