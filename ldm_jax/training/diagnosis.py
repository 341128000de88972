"""Where a step stops being finite: norms by name, and the first layer in order.

What a step computes is traced a second time; nothing here runs while all is well.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.training.state import TrainState
from ldm_jax.training.step import Taken
from ldm_jax.trees import flatten

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Sums of squares, infinite or NaN where a value is, by role and full name.

    Attributes:
      squares: "batch", "frozen", "parameters", "rest of the state" and "gradients" ->
        name of an array -> sum of its squares in float32.
      not_finite: the same roles -> names of the arrays with a value that is not finite,
        in tree order.
    """

    squares: Mapping[str, Mapping[str, float]]
    not_finite: Mapping[str, tuple[str, ...]]

    def norms(self, depth: int = 2) -> dict[str, dict[str, float]]:
        """Of parameters and gradients, by the first `depth` parts of their names."""
        return {
            "parameters": _grouped(self.squares["parameters"], depth),
            # The name of the objective comes first.
            "gradients": _grouped(self.squares["gradients"], depth + 1),
        }

    def phrases(self) -> list[str]:
        """For each role with an array that is not finite, the first such."""
        return [
            f"{role}: {shortened(names)}"
            for role, names in self.not_finite.items()
            if names
        ]


def shortened(names: Sequence[str]) -> str:
    """The first name, and how many there are beside it."""
    first, *rest = names
    return f"{first} and {len(rest)} more" if rest else first


def diagnose(
    step: Callable[..., Taken], state: TrainState, frozen: PyTree, batch: Mapping
) -> dict[str, Any]:
    """Pure, for `jax.jit`: what `read` makes a `Diagnosis` of.

    Args:
      step: `step_with_gradients` without its first three arguments.
    """
    trees = {
        "batch": dict(batch),
        "frozen": frozen,
        "parameters": state.params,
        "rest of the state": {
            "ema": state.ema or {},
            "opt_state": state.opt_state,
            "collections": state.collections,
        },
        "gradients": step(state, frozen, batch).grads,
    }
    return {role: jax.tree.map(_summary, tree) for role, tree in trees.items()}


def read(summaries: Mapping[str, PyTree]) -> Diagnosis:
    """The result of `diagnose`, on the host."""
    fetched = jax.device_get(dict(summaries))
    squares, bad = {}, {}
    for role, tree in fetched.items():
        pairs = flatten(tree)
        named = {}
        for name, value in pairs.items():
            named.setdefault(name.rpartition("/")[0], {})[name.rpartition("/")[2]] = (
                value
            )
        squares[role] = {name: float(x["square"]) for name, x in named.items()}
        bad[role] = tuple(name for name, x in named.items() if not x["is_finite"])
    return Diagnosis(squares, bad)


def _summary(x: jax.Array) -> dict[str, jax.Array]:
    x = jnp.asarray(x, jnp.float32)
    return {"square": jnp.sum(x * x), "is_finite": jnp.all(jnp.isfinite(x))}


def _grouped(squares: Mapping[str, float], depth: int) -> dict[str, float]:
    groups: dict[str, float] = {}
    for name, square in squares.items():
        group = "/".join(name.split("/")[:depth])
        groups[group] = groups.get(group, 0.0) + square
    return {name: math.sqrt(x) if x >= 0 else x for name, x in groups.items()}


class Layers:
    """Layers in the order in which they give their outputs, as they were traced."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._not_finite: set[int] = set()

    def not_finite(self) -> list[str]:
        """Those that gave a value that is not finite, the first one first."""
        jax.effects_barrier()
        return list(dict.fromkeys(self._names[i] for i in sorted(self._not_finite)))

    def watch(self, name: str, out: PyTree) -> None:
        """Of a layer being traced."""
        index = len(self._names)
        self._names.append(name)
        values = [x for x in jax.tree.leaves(out) if _is_real(x)]
        if values:
            is_finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in values]))
            jax.debug.callback(functools.partial(self._note, index), is_finite)

    def _note(self, index: int, is_finite: np.ndarray) -> None:
        if not np.all(is_finite):
            self._not_finite.add(index)


@contextmanager
def watched_layers() -> Iterator[Layers]:
    """What is traced inside tells of every layer's output each time it runs."""
    layers = Layers()

    def interceptor(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        out = next_fun(*args, **kwargs)
        layers.watch(_layer_name(context.module, context.method_name), out)
        return out

    with nn.intercept_methods(interceptor):
        yield layers


def _layer_name(module: nn.Module, method: str) -> str:
    root = module
    while isinstance(root.parent, nn.Module):
        root = root.parent
    name = "/".join((type(root).__name__, *module.path))
    call = "" if method == "__call__" else f".{method}"
    return f"{name}{call} ({type(module).__name__})"


def _is_real(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)
