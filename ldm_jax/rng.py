"""Independent random streams by name.

A stream is found by its name, never by its position, so adding one cannot change the
numbers that the others draw. `key` is one use; `keys` is a dict of them.
"""

import zlib

import jax


def named_key(key: jax.Array, name: str) -> jax.Array:
    """The stream called `name` under `key`."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def named_keys(key: jax.Array, *names: str) -> dict[str, jax.Array]:
    """One independent key for each name: `named_keys(key, "time", "noise")`."""
    return {name: named_key(key, name) for name in names}


def step_key(key: jax.Array, step: int | jax.Array) -> jax.Array:
    """The key of training step `step`, a pure function of the run's seed and the step."""
    return jax.random.fold_in(key, step)
