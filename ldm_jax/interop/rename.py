"""The rename engine: torch state-dict names and layouts <-> our parameter trees.

A rule set is an ordered tuple of `(torch pattern, our path)` pairs. The pattern is a
regular expression that matches the whole torch name without its last component
(`weight`, `bias`, ...); `{0}`, `{1}`, ... in our path are its groups, and may hold
arithmetic-free references only, so that a rule can be read at a glance. The first rule
that matches wins. The last component and the memory layout follow from the ranks:

| torch                          | ours                    |
|--------------------------------|-------------------------|
| `weight` [O, I, kh, kw] (conv) | `kernel` [kh, kw, I, O] |
| `weight` [O, I, 1] (conv1d)    | `kernel` [I, O]         |
| `weight` [O, I] (linear)       | `kernel` [I, O]         |
| `weight` [n, d] (embedding)    | `embedding` [n, d]      |
| `weight` [c] (norm)            | `scale` [c]             |
| `bias`, `running_mean`, `running_var` | `bias`, `mean`, `var` |

A 1x1 convolution whose counterpart here is a Dense layer (or the other way round) is
reshaped to the shape that the template asks for.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax import trees

Rules = Sequence[tuple[str, str]]

_LEAF = {"bias": "bias", "running_mean": "mean", "running_var": "var"}


def our_name(torch_name: str, rules: Rules, template: Mapping[str, Any]) -> str | None:
    """The path in `template` (flat) that `torch_name` maps to, or None if no rule matches."""
    parent, _, last = torch_name.rpartition(".")
    for pattern, target in rules:
        match = re.fullmatch(pattern, parent)
        if match is None:
            continue
        path = target.format(*match.groups())
        if last != "weight":
            return f"{path}/{_LEAF.get(last, last)}"
        candidates = [f"{path}/{leaf}" for leaf in ("kernel", "embedding", "scale")]
        found = [name for name in candidates if name in template]
        return found[0] if found else candidates[0]
    return None


def to_our_layout(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Transpose one torch tensor to our layout and check it against `shape`.

    Raises:
      ValueError: names the parameter and both shapes if they cannot agree.
    """
    value = np.asarray(value)
    if name.endswith("/kernel") and value.ndim == 4:
        out = value.transpose(2, 3, 1, 0)
    elif name.endswith("/kernel") and value.ndim == 3:
        out = value[:, :, 0].T
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


def to_torch_layout(name: str, value: np.ndarray, conv1d: bool = False) -> np.ndarray:
    """The inverse of `to_our_layout` for a kernel whose rank is kept."""
    if name.endswith("/kernel") and value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    if name.endswith("/kernel") and value.ndim == 2:
        return value.T[:, :, None] if conv1d else value.T
    return value


def import_state_dict(
    state_dict: Mapping[str, np.ndarray], rules: Rules, template: Any
) -> tuple[dict, list[str], list[str]]:
    """Fill the tree `template` (arrays or `ShapeDtypeStruct`s) from a torch state dict.

    Returns:
      (tree, unused torch names, our names that nothing filled).

    Raises:
      ValueError: if a tensor's shape does not fit, or two tensors claim one parameter.
    """
    flat = trees.flatten(template)
    filled: dict[str, np.ndarray] = {}
    unused = []
    for torch_name, value in state_dict.items():
        name = our_name(torch_name, rules, flat)
        if name is None or name not in flat:
            unused.append(torch_name)
            continue
        if name in filled:
            raise ValueError(f"two tensors map to {name}; the second is {torch_name}")
        filled[name] = to_our_layout(name, value, flat[name].shape)
    missing = [name for name in flat if name not in filled]
    return trees.unflatten(filled), unused, missing
