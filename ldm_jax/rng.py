"""Independent random streams by name.

A stream is found by its name, never by its position, so adding one cannot change the
numbers that the others draw. `key` is one use; `keys` is a dict of them. Keys are typed
(`jax.random.key`); where one key for each example is meant, they form an array `[b]`.
"""

import zlib

import jax


def named_key(key: jax.Array, name: str) -> jax.Array:
    """The stream called `name` under `key`, or under each of `[b]` keys."""
    return _fold_in(key, zlib.crc32(name.encode()))


def named_keys(key: jax.Array, *names: str) -> dict[str, jax.Array]:
    """One independent key for each name: `named_keys(key, "time", "noise")`."""
    return {name: named_key(key, name) for name in names}


def step_key(key: jax.Array, step: int | jax.Array) -> jax.Array:
    """The key of step `step`, a pure function of `key` and the step; `[b]` of `[b]` keys."""
    return _fold_in(key, step)


def example_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """A key for each example, `[b]`, a pure function of `key` and the example's `index`.

    What is drawn with them does not depend on how examples are grouped into batches.
    """
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def _fold_in(key: jax.Array, data: int | jax.Array) -> jax.Array:
    if key.ndim == 0:
        return jax.random.fold_in(key, data)
    return jax.vmap(lambda k: jax.random.fold_in(k, data))(key)
