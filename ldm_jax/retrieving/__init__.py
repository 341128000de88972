"""Retrieval-augmented models: an index of pictures, neighbours to train on and to sample.

Blattmann et al. 2022, Retrieval-Augmented Diffusion Models, arXiv:2204.11824.
"""

from ldm_jax.retrieving.building import build_index, import_published
from ldm_jax.retrieving.querying import Retriever, open_retriever
from ldm_jax.retrieving.training import look_up_neighbors

__all__ = [
    "Retriever",
    "build_index",
    "import_published",
    "look_up_neighbors",
    "open_retriever",
]
