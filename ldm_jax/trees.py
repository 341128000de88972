"""Pytrees by path: every leaf of a parameter tree has a name such as `down_1/block_0/conv1/kernel`."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

PyTree = Any


def path_name(path: tuple) -> str:
    """A jax key path as a string joined by slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree: PyTree) -> dict[str, Any]:
    """`{"a": {"b": x}}` -> `{"a/b": x}`, in tree order."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(path): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict:
    """The inverse of `flatten` for nested dicts."""
    tree: dict = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def map_with_name(fn: Callable[[str, Any], Any], tree: PyTree) -> PyTree:
    """Map `fn(name, leaf)` over a tree."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: fn(path_name(path), leaf), tree
    )


def num_elements(tree: PyTree) -> int:
    """Number of scalars in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: PyTree) -> int:
    """Bytes of a tree of arrays or shapes."""
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )


def select(tree: Mapping[str, Any], groups: tuple[str, ...]) -> tuple[dict, dict]:
    """Split a tree by its top-level groups: (the named ones, the rest)."""
    chosen = {name: tree[name] for name in groups}
    rest = {name: sub for name, sub in tree.items() if name not in groups}
    return chosen, rest
