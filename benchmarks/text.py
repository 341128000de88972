"""Rows of the text encoder."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import references
from benchmarks.compiled import compiled
from benchmarks.networks import random_params
from benchmarks.rows import Setting, Sides
from ldm_jax.conditioners.clip_text import ClipText
from ldm_jax.nn.jit import jit

ENCODERS: dict[str, dict[str, Any]] = {
    "clip_vit_l": {"width": 768, "num_layers": 12, "num_heads": 12},
    "tiny": {"width": 32, "num_layers": 2, "num_heads": 4},
}
LENGTH = 77


def encode(setting: Setting, name: str, batch_size: int) -> Sides:
    """Token ids `[b 77]` to hidden states, against transformers' CLIPTextModel."""
    module = ClipText(
        **ENCODERS[name], max_length=LENGTH, dtype=jnp.dtype(setting.dtype)
    )
    random = np.random.default_rng(0)
    tokens = random.integers(0, 49_000, (batch_size, LENGTH), dtype=np.int32)
    batch = {"tokens": jnp.asarray(tokens)}
    host = random_params(
        jax.eval_shape(module.init, jax.random.key(0), batch)["params"]
    )
    params = jax.tree.map(lambda p: jnp.asarray(p, setting.dtype), host)

    def apply(params, batch):
        out: Any = module.apply({"params": params}, batch)
        return out.tokens

    ours = compiled(jit(apply), params, batch)
    return Sides(
        lambda: jax.block_until_ready(ours.call(params, batch)),
        _references(setting, module, host, tokens),
        batch_size,
        "texts",
        ours.peak_bytes,
        ours.seconds,
    )


def _references(
    setting: Setting, module: ClipText, host: Any, tokens: np.ndarray
) -> dict[str, Any]:
    # It has no convolution, so the order of memory has nothing to choose.
    names = tuple(n for n in setting.references if n != "channels_last")
    if not names:
        return {}
    import torch

    model = references.on_device(setting, references.clip_text(module, host))

    def make_call(model, order):
        del order
        ids = references.tensor(setting, tokens.astype(np.int64))

        def call():
            with torch.no_grad():
                return model(ids).last_hidden_state

        return references.finished(setting, call)

    chosen = dataclasses.replace(setting, references=names)
    return references.variants(chosen, model.requires_grad_(False), make_call)
