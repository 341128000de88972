"""Plain attention in diffusers' folders: old names, and separate against joint projections.

diffusers keeps query, key and value apart (`to_q`, `to_k`, `to_v`); the denoiser's plain
attention here has one projection whose outputs are ordered head, then query/key/value,
then channel, as in the published checkpoints. Both directions work on state dicts that
load a tensor only when it is asked for, and are exact inverses.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

State = Mapping[str, np.ndarray]

# Until version 0.11 diffusers wrote the names on the left.
_OLD_NAMES = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}
_PARTS = ("to_q", "to_k", "to_v")
_LEAVES = ("weight", "bias")


class LazyState(Mapping):
    """A state dict of functions; `state[name]` calls one and keeps nothing."""

    def __init__(self, loaders: Mapping[str, Callable[[], np.ndarray]]):
        self._loaders = dict(loaders)

    @classmethod
    def of(cls, state: State) -> "LazyState":
        """A view of `state`."""
        return cls({name: _load(state, name) for name in state})

    def replaced(
        self, removed: set[str], added: Mapping[str, Callable[[], np.ndarray]]
    ) -> "LazyState":
        """Without the names `removed`, and with those `added` at the end."""
        kept = {k: v for k, v in self._loaders.items() if k not in removed}
        return LazyState(kept | dict(added))

    def __getitem__(self, name: str) -> np.ndarray:
        return self._loaders[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._loaders

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)


def rename_old_attention(state: State) -> LazyState:
    """`state` with the names that diffusers gives to attention layers since 0.12."""

    def new_name(name: str) -> str:
        parent, _, last = name.rpartition(".")
        path, _, layer = parent.rpartition(".")
        if ".attentions." not in f".{path}." or layer not in _OLD_NAMES:
            return name
        return f"{path}.{_OLD_NAMES[layer]}.{last}"

    return LazyState({new_name(name): _load(state, name) for name in state})


def join_qkv(state: State, num_heads: Mapping[str, int]) -> LazyState:
    """`<path>.to_{q,k,v}.*` as `<path>.qkv.*` for every attention layer given.

    Args:
      state: linear weights [c, c], or [c, c, 1, 1] in old files, and biases [c].
      num_heads: by the path of the layer. Layers of which a tensor is missing stay
        as they are.
    """
    removed: set[str] = set()
    added = {}
    present = set(state)
    for path, heads in num_heads.items():
        for leaf in _LEAVES:
            names = [f"{path}.{part}.{leaf}" for part in _PARTS]
            if present.issuperset(names):
                removed |= set(names)
                added[f"{path}.qkv.{leaf}"] = _join(state, names, heads)
    return LazyState.of(state).replaced(removed, added)


def split_qkv(state: State, num_heads: Mapping[str, int]) -> LazyState:
    """The inverse of `join_qkv`."""
    removed: set[str] = set()
    added = {}
    present = set(state)
    for path, heads in num_heads.items():
        for leaf in _LEAVES:
            joint = f"{path}.qkv.{leaf}"
            if joint not in present:
                continue
            removed.add(joint)
            for index, part in enumerate(_PARTS):
                added[f"{path}.{part}.{leaf}"] = _split(state, joint, heads, index)
    return LazyState.of(state).replaced(removed, added)


def _load(state: State, name: str) -> Callable[[], np.ndarray]:
    return lambda: state[name]


def _join(state: State, names: list[str], heads: int) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        parts = [np.asarray(state[name]) for name in names]
        c, rest = parts[0].shape[0], parts[0].shape[1:2]
        by_head = [part.reshape(heads, c // heads, *rest) for part in parts]
        return np.stack(by_head, axis=1).reshape(3 * c, *rest)

    return load


def _split(
    state: State, joint: str, heads: int, index: int
) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        value = np.asarray(state[joint])
        c = value.shape[0] // 3
        by_head = value.reshape(heads, 3, c // heads, *value.shape[1:])
        return by_head[:, index].reshape(c, *value.shape[1:])

    return load
