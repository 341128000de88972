"""Vendored and named data sets, by the name that `open_source` takes."""

from ldm_jax.data.datasets import emoji64, emoji_scenes

DATASETS = {"emoji64": emoji64.open_source, "emoji_scenes": emoji_scenes.open_source}
