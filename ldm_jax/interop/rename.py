"""The rename engine: torch state-dict names and layouts <-> our parameter trees.

A rule set is an ordered sequence of `(torch pattern, our path)` or `(torch pattern, our
path, rank)`. The pattern is the torch name without its last component (`weight`, `bias`,
...): literal text with `\\.`, and `(\\d+)` for numbers, which our path names as `{0}`,
`{1}`, ... Nothing else of a regular expression is allowed, so that every rule can be read
backwards. In either direction the first rule that matches wins. A pattern that has no
match may stand for a whole name, last component included, on both sides (the bare
parameters of OpenCLIP).

The last component and the memory layout follow from the ranks:

| torch                          | ours                    |
|--------------------------------|-------------------------|
| `weight` [O, I, kh, kw] (conv) | `kernel` [kh, kw, I, O] |
| `weight` [O, I, 1] (conv1d)    | `kernel` [I, O]         |
| `weight` [O, I] (linear)       | `kernel` [I, O]         |
| `weight` [n, d] (embedding)    | `embedding` [n, d]      |
| `weight` [c] (norm)            | `scale` [c]             |
| `bias`, `running_mean`, `running_var` | `bias`, `mean`, `var` |

`rank` is the rank of the torch weight where it differs from our kernel's: 4 for a 1x1
convolution that is a dense layer here, 3 for a conv1d, 2 for a linear layer that is a
1x1 convolution here. Import takes any of them; export needs it to be exact.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax import trees
from ldm_jax.lazy_array import LazyArray, read_array

Rule = tuple[str, str] | tuple[str, str, int]
Rules = Sequence[Rule]

_LEAF = {"bias": "bias", "running_mean": "mean", "running_var": "var"}
_TORCH_LEAF = {ours: torch for torch, ours in _LEAF.items()}
_WEIGHT_LEAVES = ("kernel", "embedding", "scale")
_NUMBER = r"(\d+)"


def our_name(torch_name: str, rules: Rules, template: Mapping[str, Any]) -> str | None:
    """The path in `template` (flat) that `torch_name` maps to, or None if no rule matches."""
    table = _tables(tuple(rules))[0]
    parent, _, last = torch_name.rpartition(".")
    found = table.translate(parent)
    if found is None:
        whole = table.translate(torch_name)
        return whole[0] if whole and whole[0] in template else None
    path = found[0]
    if last != "weight":
        return f"{path}/{_LEAF.get(last, last)}"
    candidates = [f"{path}/{leaf}" for leaf in _WEIGHT_LEAVES]
    known = [name for name in candidates if name in template]
    return known[0] if known else candidates[0]


def torch_name(name: str, rules: Rules) -> tuple[str, int | None]:
    """The torch name of our parameter `name`, and its rank if it is not our kernel's.

    Raises:
      ValueError: no rule leads to that parameter.
    """
    table = _tables(tuple(rules))[1]
    parent, _, leaf = name.rpartition("/")
    found = table.translate(parent)
    if found is not None:
        last = "weight" if leaf in _WEIGHT_LEAVES else _TORCH_LEAF.get(leaf, leaf)
        return f"{found[0]}.{last}", found[1]
    found = table.translate(name)
    if found is None:
        raise ValueError(
            f"no rename rule leads to the parameter {name}: add one to the rule set of "
            "its module"
        )
    return found


def torch_shape(
    name: str, shape: Sequence[int], rank: int | None = None
) -> tuple[int, ...]:
    """The shape that a parameter `name` of `shape` has in torch; see `torch_name`."""
    if not name.endswith("/kernel"):
        return tuple(shape)
    *window, num_in, num_out = shape
    shape = (num_out, num_in, *window)
    if rank is None:
        return shape
    return (*shape[:2], *(1,) * (rank - 2)) if len(shape) == 2 else shape[:rank]


def to_our_layout(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Transpose one torch tensor to our layout and check it against `shape`.

    Raises:
      ValueError: names the parameter and both shapes if they cannot agree.
    """
    value = np.asarray(value)
    if name.endswith("/kernel") and value.ndim == 4:
        out = value.transpose(2, 3, 1, 0)
    elif name.endswith("/kernel") and value.ndim == 3:
        out = value.transpose(2, 1, 0)
    elif name.endswith("/kernel") and value.ndim == 2:
        out = value.T
    else:
        out = value
    if out.shape != tuple(shape):
        if [n for n in out.shape if n != 1] != [n for n in shape if n != 1]:
            raise ValueError(
                f"parameter {name} has shape {tuple(shape)} in this model but the "
                f"checkpoint holds {value.shape} (torch layout); is it the right config?"
            )
        out = out.reshape(shape)
    return out


def to_torch_layout(
    name: str, value: np.ndarray, rank: int | None = None
) -> np.ndarray:
    """The inverse of `to_our_layout`; `rank` as in `torch_name`."""
    shape = torch_shape(name, value.shape, rank)
    if name.endswith("/kernel"):
        value = value.transpose(-1, -2, *range(value.ndim - 2))
    return value.reshape(shape)


def import_state_dict(
    state_dict: Mapping[str, np.ndarray], rules: Rules, template: Any
) -> tuple[dict, list[str], list[str]]:
    """Fill the tree `template` (arrays or `ShapeDtypeStruct`s) from a torch state dict.

    A tensor is read if a parameter takes it, once.

    Returns:
      (tree, unused torch names, our names that nothing filled).

    Raises:
      ValueError: if a tensor's shape does not fit, or two tensors claim one parameter.
    """
    tree, unused, missing = import_lazily(state_dict, rules, template)
    flat = {name: leaf.read() for name, leaf in trees.flatten(tree).items()}
    return trees.unflatten(flat), unused, missing


def import_lazily(
    state_dict: Mapping[str, np.ndarray], rules: Rules, template: Any
) -> tuple[dict, list[str], list[str]]:
    """As `import_state_dict`, but the leaves are `LazyArray`s: nothing is read here.

    The arrays keep the file's dtype, which the leaves, of the template's dtype, do not
    know; shapes are checked when a leaf is read.

    Raises:
      ValueError: if two tensors claim one parameter.
    """
    flat = trees.flatten(template)
    filled: dict[str, LazyArray] = {}
    unused = []
    for source in state_dict:
        name = our_name(source, rules, flat)
        if name is None or name not in flat:
            unused.append(source)
            continue
        if name in filled:
            raise ValueError(f"two tensors map to {name}; the second is {source}")
        shape, dtype = tuple(flat[name].shape), np.dtype(flat[name].dtype)
        read = functools.partial(_read, state_dict, source, name, shape)
        filled[name] = LazyArray(shape, dtype, read)
    missing = [name for name in flat if name not in filled]
    return trees.unflatten(filled), unused, missing


def export_state_dict(tree: Any, rules: Rules) -> dict[str, np.ndarray]:
    """The torch state dict of a parameter tree: the exact inverse of the import.

    Raises:
      ValueError: if no rule leads to a parameter, or two parameters share a name.
    """
    state: dict[str, np.ndarray] = {}
    for name, leaf in trees.flatten(tree).items():
        target, rank = torch_name(name, rules)
        if target in state:
            raise ValueError(f"two parameters map to {target}; the second is {name}")
        value = to_torch_layout(name, read_array(leaf), rank)
        state[target] = np.array(value, order="C")
    return state


def _read(state_dict, source: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return to_our_layout(name, state_dict[source], shape)


@dataclasses.dataclass(frozen=True)
class _Table:
    """One direction of a rule set: names without numbers by look-up, others in order."""

    literal: Mapping[str, tuple[int, str, int | None]]
    numbered: Sequence[tuple[int, re.Pattern, str, int | None]]

    def translate(self, name: str) -> tuple[str, int | None] | None:
        first = self.literal.get(name)
        for index, pattern, target, rank in self.numbered:
            if first is not None and first[0] < index:
                break
            match = pattern.fullmatch(name)
            if match is not None:
                return target.format(*match.groups()), rank
        return None if first is None else (first[1], first[2])


@functools.lru_cache(maxsize=256)
def _tables(rules: tuple[Rule, ...]) -> tuple[_Table, _Table]:
    """(torch -> ours, ours -> torch)."""
    sides = []
    for pattern, path, *rank in rules:
        torch = _as_format(pattern)
        sides.append((torch, path, rank[0] if rank else None))
    backwards = [(path, torch, rank) for torch, path, rank in sides]
    return _table(sides), _table(backwards)


def _table(sides: Sequence[tuple[str, str, int | None]]) -> _Table:
    literal: dict[str, tuple[int, str, int | None]] = {}
    numbered = []
    for index, (source, target, rank) in enumerate(sides):
        order = re.findall(r"\{(\d+)\}", source)
        if sorted(order) != sorted(re.findall(r"\{(\d+)\}", target)):
            raise ValueError(
                f"the rename rule {source!r} <-> {target!r} cannot be read backwards: "
                "name each number once on both sides"
            )
        if not order:
            literal.setdefault(source, (index, target, rank))
            continue
        pattern = re.sub(r"\\\{\d+\\\}", lambda _: _NUMBER, re.escape(source))
        place = {number: f"{{{i}}}" for i, number in enumerate(order)}
        filled = re.sub(r"\{(\d+)\}", lambda m, place=place: place[m[1]], target)
        numbered.append((index, re.compile(pattern), filled, rank))
    return _Table(literal, numbered)


def _as_format(pattern: str) -> str:
    r"""`a\.(\d+)\.b` -> `a.{0}.b`."""
    pieces = pattern.split(_NUMBER)
    text = "".join(
        piece + (f"{{{i}}}" if i < len(pieces) - 1 else "")
        for i, piece in enumerate(pieces)
    )
    plain = text.replace(r"\.", "")
    if set(plain) & set(".*+?[](|)^$\\"):
        raise ValueError(
            f"the rename pattern {pattern!r} cannot be read backwards: write literal "
            r"text with `\.`, and `(\d+)` for numbers"
        )
    return text.replace(r"\.", ".")
