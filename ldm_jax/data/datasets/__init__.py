"""Vendored and named data sets, by the name that `open_source` takes."""

from ldm_jax.data.datasets import emoji64

DATASETS = {"emoji64": emoji64.open_reader}
