"""Frozen networks whose features losses and metrics compare."""

from ldm_jax.features.base import FeatureNetwork
from ldm_jax.features.networks import NETWORKS, find_network
from ldm_jax.features.search import WeightsNotFoundError

__all__ = ["NETWORKS", "FeatureNetwork", "WeightsNotFoundError", "find_network"]
