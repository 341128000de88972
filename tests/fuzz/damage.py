"""Damage as hypothesis draws it: to bytes, and to what JSON holds."""

import copy
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

EDITS = ("flip", "replace", "insert", "drop", "cut", "repeat")


@st.composite
def damaged_bytes(draw: st.DrawFn, originals: Sequence[bytes]) -> bytes:
    """One of `originals` after one to four edits, mostly one, half of them near its start."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        end = len(data) if draw(st.booleans()) else min(len(data), 200)
        at = draw(st.integers(0, max(0, end - 1)))
        edit = draw(st.sampled_from(EDITS))
        if edit == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif edit == "replace":
            new = draw(st.binary(min_size=1, max_size=8))
            data[at : at + len(new)] = new
        elif edit == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif edit == "drop":
            del data[at : at + draw(st.integers(1, 64))]
        elif edit == "cut":
            del data[at:]
        elif edit == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
    return bytes(data)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 40),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["../../etc/passwd", "/etc/passwd", "a\nb", "\x00", "none", "1"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.text(max_size=6), inner, max_size=4),
    ),
    max_leaves=8,
)


@st.composite
def damaged_tree(draw: st.DrawFn, original: Any) -> Any:
    """Nested dicts and lists with one to three nodes replaced, removed or doubled."""
    tree = copy.deepcopy(original)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        places = list(_places(tree))
        if not places:
            return draw(VALUES)
        parent, key = draw(st.sampled_from(places))
        edit = draw(st.sampled_from(["replace", "replace", "remove", "double"]))
        if edit == "remove":
            del parent[key]
        elif edit == "double" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        else:
            parent[key] = draw(VALUES)
    return tree


def _places(tree: Any):
    """(container, key) of every node but the root, once each."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)
