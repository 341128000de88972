"""Which tensor of a file is which parameter of a model: by names and shapes alone.

A whole checkpoint is several networks under prefixes, each with its own rename rules: a
`Part` each. What a model expects of a file follows from its parts, so that matching is a
comparison of two tables and reads no tensor.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ldm_jax import trees
from ldm_jax.interop.rename import (
    Rules,
    to_our_layout,
    to_torch_layout,
    torch_name,
    torch_shape,
)
from ldm_jax.lazy_array import LazyArray, read_array

Item = Literal["params", "ema", "collections", "frozen"]
Infos = Mapping[str, tuple[np.dtype, tuple[int, ...]]]
Read = Callable[[str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Part:
    """One network of a checkpoint.

    Attributes:
      item: where its parameters go: items of our checkpoints, or the frozen first stage.
      group: their top-level group.
      prefix: of its names in the file.
      rules: rename rules without the prefix.
      template: shapes by our flat names, without the group.
      root: what our names have in front of those that the rules know.
      rename: from the prefixed name to that in the file.
      is_optional: whether a file may lack all of it.
    """

    item: Item
    group: str
    prefix: str
    rules: Rules
    template: Mapping[str, Any]
    root: str = ""
    rename: Callable[[str], str] = str
    is_optional: bool = False

    @functools.cached_property
    def targets(self) -> dict[str, "Target"]:
        """What each of its tensors becomes, by name in the file.

        Raises:
          ValueError: if two parameters get one name.
        """
        found: dict[str, Target] = {}
        for name, leaf in self.template.items():
            bare = name.removeprefix(self.root)
            theirs, rank = torch_name(bare, self.rules)
            theirs = self.rename(self.prefix + theirs)
            if theirs in found:
                raise ValueError(
                    f"the parameters {found[theirs].name} and {name} would both be "
                    f"called {theirs} in the file"
                )
            shape = torch_shape(name, leaf.shape, rank)
            found[theirs] = Target(
                self.item, self.group, name, tuple(leaf.shape), shape, rank
            )
        return found


@dataclasses.dataclass(frozen=True)
class Target:
    """The parameter that a tensor becomes.

    Attributes:
      item, group, name: where it lies; see `Part`.
      shape: ours.
      torch_shape: the file's.
      rank: of the torch weight where it is not our kernel's.
    """

    item: Item
    group: str
    name: str
    shape: tuple[int, ...]
    torch_shape: tuple[int, ...]
    rank: int | None


@dataclasses.dataclass(frozen=True)
class Match:
    """What a file and a model have in common, and what not.

    Attributes:
      targets: by the names of the tensors that are taken.
      known: tensors that are left out, with the reason.
      unmatched: tensors that the model has no place for.
      missing: names that the model expects and the file lacks.
      misshapen: (name, shape in the file, shape that the model expects).
    """

    targets: Mapping[str, Target]
    known: Mapping[str, str]
    unmatched: tuple[str, ...]
    missing: tuple[str, ...]
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def is_exact(self) -> bool:
        """Whether every weight has a place and every place a weight."""
        return not (self.unmatched or self.missing or self.misshapen)

    def difference(self) -> str:
        """Up to five names on either side, as a part of a sentence."""
        sides = []
        if self.misshapen:
            name, found, expected = self.misshapen[0]
            sides.append(
                f"{len(self.misshapen)} of another shape, first {name} ({list(found)} in "
                f"the file, {list(expected)} in the model)"
            )
        if self.unmatched:
            sides.append(_first_five(self.unmatched, "only in the file"))
        if self.missing:
            sides.append(_first_five(self.missing, "only in the model"))
        return "; ".join(sides)


def match(
    infos: Infos, parts: Sequence[Part], known: Iterable[tuple[str, str]] = ()
) -> Match:
    """Compare the tensors of a file with what a model expects.

    Args:
      infos: dtype and shape by name.
      known: (regular expression of a whole name, why it is left out).
    """
    expected: dict[str, Target] = {}
    for part in parts:
        if not part.is_optional or any(name in infos for name in part.targets):
            expected |= part.targets
    patterns = [(re.compile(pattern), reason) for pattern, reason in known]
    taken, left_out, unmatched, misshapen = {}, {}, [], []
    for name, (_, shape) in infos.items():
        target = expected.get(name)
        if target is None:
            reasons = [text for pattern, text in patterns if pattern.fullmatch(name)]
            if reasons:
                left_out[name] = reasons[0]
            else:
                unmatched.append(name)
        elif _without_ones(shape) != _without_ones(target.torch_shape):
            misshapen.append((name, tuple(shape), target.torch_shape))
        else:
            taken[name] = target
    missing = tuple(name for name in expected if name not in infos)
    return Match(taken, left_out, tuple(unmatched), missing, tuple(misshapen))


def imported(found: Match, read: Read) -> dict[Item, dict[str, Any]]:
    """Trees of lazy float32 arrays by item and group; `read(name)` loads a tensor."""
    flat: dict[Item, dict[str, LazyArray]] = {}
    for name, target in found.targets.items():
        load = functools.partial(_load, read, name, target)
        array = LazyArray(target.shape, np.dtype(np.float32), load)
        flat.setdefault(target.item, {})[f"{target.group}/{target.name}"] = array
    return {item: trees.unflatten(leaves) for item, leaves in flat.items()}


def exported(
    parts: Sequence[Part], items: Mapping[Item, Mapping[str, Any]]
) -> dict[str, LazyArray]:
    """Lazy arrays in torch's names and layouts: the inverse of `imported`.

    Optional parts that `items` lacks are left out.

    Raises:
      ValueError: names the first parameter that is missing.
    """
    state: dict[str, LazyArray] = {}
    for part in parts:
        tree = items.get(part.item, {}).get(part.group)
        if tree is None and part.is_optional:
            continue
        flat = {} if tree is None else trees.flatten(tree)
        for name, target in part.targets.items():
            if target.name not in flat:
                raise ValueError(
                    f"there is no {part.item}/{part.group}/{target.name} to export: does "
                    "the checkpoint belong to its config?"
                )
            leaf = flat[target.name]
            load = functools.partial(_unload, leaf, target)
            state[name] = LazyArray(target.torch_shape, np.dtype(leaf.dtype), load)
    return state


def _load(read: Read, name: str, target: Target) -> np.ndarray:
    value = to_our_layout(target.name, read(name), target.shape)
    return value.astype(np.float32, copy=False)


def _unload(leaf: Any, target: Target) -> np.ndarray:
    return to_torch_layout(target.name, read_array(leaf), target.rank)


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [n for n in shape if n != 1]


def _first_five(names: Sequence[str], where: str) -> str:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} {where}: {shown}"
