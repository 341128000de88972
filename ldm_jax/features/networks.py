"""The feature networks by name."""

import os
from collections.abc import Callable, Mapping

from ldm_jax.features.base import FeatureNetwork
from ldm_jax.features.clip_weights import find_clip
from ldm_jax.features.efficientnet_weights import find_efficientnet
from ldm_jax.features.inception_weights import find_inception

# name -> finds the weights at a path, or where they usually are
NETWORKS: Mapping[str, Callable[[str | os.PathLike | None], FeatureNetwork]] = {
    "inception": find_inception,
    "efficientnet_lite0": find_efficientnet,
    "clip": find_clip,
}


def find_network(name: str, path: str | os.PathLike | None = None) -> FeatureNetwork:
    """The network `name` of `NETWORKS` with weights from `path` or, without one, found.

    Raises:
      FileNotFoundError: no weights; the message lists every way to get them.
      ValueError: no such network, or a file that is damaged or holds something else.
    """
    if name not in NETWORKS:
        raise ValueError(
            f"no feature network is called {name!r}: give one of {', '.join(NETWORKS)}"
        )
    return NETWORKS[name](path)
