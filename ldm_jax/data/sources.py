"""From a spec such as `folder:/path` to a source of pictures."""

from ldm_jax.data.datasets import DATASETS
from ldm_jax.data.records import ImageSource

FORMATS = {}


def open_source(spec: str, *, split: str = "train") -> ImageSource:
    """Open what `config.data.source` names."""
    kind, _, rest = spec.partition(":")
    if kind in DATASETS:
        return ImageSource(DATASETS[kind](spec, rest or split))
    raise ValueError(f"unknown data source {spec!r}")
