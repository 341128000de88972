"""One network of a diffusers folder: its weights in and out."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ldm_jax import trees
from ldm_jax.autoencoders.base import Autoencoder
from ldm_jax.backbones.unet import UNet
from ldm_jax.conditioners.clip_text import ClipText
from ldm_jax.interop import matching
from ldm_jax.interop.archive import open_checkpoint, write_safetensors
from ldm_jax.interop.diffusers_attention import (
    join_qkv,
    rename_old_attention,
    split_qkv,
)
from ldm_jax.interop.diffusers_autoencoder import diffusers_autoencoder_rules
from ldm_jax.interop.diffusers_modules import (
    Shapes,
    TextEncoder,
    autoencoder_shapes,
    text_encoder_shapes,
    unet_shapes,
)
from ldm_jax.interop.diffusers_text import (
    CLIP_TEXT_KNOWN,
    CLIP_TEXT_RULES,
    LDM_BERT_KNOWN,
    LDM_BERT_RULES,
    with_text_model_prefix,
)
from ldm_jax.interop.diffusers_unet import diffusers_unet_rules, plain_attention_heads
from ldm_jax.interop.rename import Rules
from ldm_jax.lazy_array import LazyArray

_DIFFUSERS, _TRANSFORMERS = "diffusion_pytorch_model", "model"


@dataclasses.dataclass(frozen=True)
class Component:
    """How the weights in one folder become a group of our parameters.

    Attributes:
      name: the folder, below the pipeline's; "" for a network alone.
      group: the group of parameters.
      rules: rename rules.
      shapes: of our parameters, flat.
      path: where in the group they lie.
      num_heads: of the plain attention layers to join; see `plain_attention_heads`.
      known: tensors to leave out; see `matching.match`.
      modern_names: from names that older versions wrote.
      stem: of the weights' file.
    """

    name: str
    group: str
    rules: Rules
    shapes: Shapes
    path: tuple[str, ...] = ()
    num_heads: Mapping[str, int] = dataclasses.field(default_factory=dict)
    known: tuple[tuple[str, str], ...] = ()
    modern_names: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    stem: str = _DIFFUSERS

    @functools.cached_property
    def _part(self) -> matching.Part:
        return matching.Part("params", self.group, "", self.rules, self.shapes)

    @property
    def torch_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that `write` writes."""
        return {
            name: array.shape for name, array in self._exported(self.shapes).items()
        }

    def _exported(self, flat: Mapping[str, Any]) -> dict[str, LazyArray]:
        items: dict[matching.Item, Any]
        items = {"params": {self.group: trees.unflatten(flat)}}
        return split_qkv(matching.exported([self._part], items), self.num_heads)

    def read(self, folder: Path) -> tuple[Any, matching.Infos, Mapping[str, str]]:
        """(tree of lazy float32 arrays, what is in the files, what is left out and why).

        Raises:
          FileNotFoundError, ValueError: see `open_checkpoint`; or the weights do not fit.
        """
        entries = open_checkpoint(folder).tensors.entries
        state = join_qkv(dict(self.modern_names(entries)), self.num_heads)  # pyright: ignore[reportArgumentType]
        infos = {name: (array.dtype, array.shape) for name, array in state.items()}
        found = matching.match(infos, [self._part], self.known)
        if not found.is_exact:
            raise ValueError(
                f"the weights in {folder} are not of the network that its config.json "
                f"describes: {found.difference()}"
            )
        tree = matching.imported(found, lambda name: state[name].read())
        tree = tree["params"][self.group]
        for name in reversed(self.path):
            tree = {name: tree}
        stored = {n: (array.dtype, array.shape) for n, array in entries.items()}
        return tree, stored, found.known

    def write(self, folder: Path, params: Mapping[str, Any]) -> None:
        """Write the weights, one array at a time.

        Args:
          params: trees by group.

        Raises:
          ValueError: names a parameter that `params` lacks.
        """
        tree = params.get(self.group, {})
        for name in self.path:
            tree = tree.get(name, {})
        state = self._exported(trees.flatten(tree))
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / f"{self.stem}.safetensors", state)


def unet_component(
    name: str, unet: UNet, in_channels: int, tokens_dim: int | None
) -> Component:
    """A U-Net in the folder `name`."""
    return Component(
        name,
        "backbone",
        diffusers_unet_rules(unet),
        unet_shapes(unet, in_channels, tokens_dim),  # pyright: ignore[reportArgumentType]
        num_heads=plain_attention_heads(unet),
        modern_names=rename_old_attention,
    )


def autoencoder_component(name: str, autoencoder: Autoencoder) -> Component:
    """A first stage in the folder `name`."""
    return Component(
        name,
        "autoencoder",
        diffusers_autoencoder_rules(len(autoencoder.ch_mult)),
        autoencoder_shapes(autoencoder),  # pyright: ignore[reportArgumentType]
        modern_names=rename_old_attention,
    )


def text_component(name: str, encoder: TextEncoder, path: tuple[str, ...]) -> Component:
    """A text encoder in the folder `name`; `path` is its place in a composed condition."""
    if isinstance(encoder, ClipText):
        rules, known = CLIP_TEXT_RULES, CLIP_TEXT_KNOWN
    else:
        rules, known = LDM_BERT_RULES, LDM_BERT_KNOWN
    return Component(
        name,
        "conditioner",
        rules,
        text_encoder_shapes(encoder),  # pyright: ignore[reportArgumentType]
        path,
        known=known,
        modern_names=with_text_model_prefix,
        stem=_TRANSFORMERS,
    )
