"""What a file of weights must hold to fit a config."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ldm_jax import build
from ldm_jax.interop import compvis, compvis_conditioner
from ldm_jax.interop.matching import Part
from ldm_jax.latent_diffusion import LatentDiffusion

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Description:
    """A model without arrays, in the terms of the original code's checkpoints.

    Attributes:
      parts: its networks.
      known: what a file may hold besides; see `compvis.KNOWN`.
      params: shapes of the parameters that its run saves, by group.
      autoencoder: shapes of the first stage's parameters.
      ldm: the model; None for a first stage alone.
    """

    parts: tuple[Part, ...]
    known: tuple[tuple[str, str], ...]
    params: PyTree
    autoencoder: PyTree
    ldm: LatentDiffusion | None = None

    @property
    def conditioner(self) -> Any:
        """The conditioner; None without one."""
        return None if self.ldm is None else self.ldm.conditioner


def describe(config: ConfigDict) -> Description:
    """Derive it from a config, without allocating a parameter.

    Raises:
      ValueError: for a bad config, or a model that the format has no place for.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.autoencoder.checkpoint = ""  # has no say in it
    return _describe(config.to_json_best_effort(sort_keys=True))


@functools.lru_cache(maxsize=8)
def _describe(config_json: str) -> Description:
    """Once for every config of a process: it takes a second."""
    experiment = build.experiment(ConfigDict(json.loads(config_json)))
    params, collections = jax.eval_shape(experiment.init, jax.random.key(0))
    if experiment.ldm is None:
        batch_stats = collections.get("discriminator", {})
        parts = compvis.first_stage_parts({**params, **batch_stats})
        return Description(parts, compvis.KNOWN, params, params["autoencoder"])
    ldm = experiment.ldm
    autoencoder = _first_stage_shapes(ldm.autoencoder)
    parts = compvis.latent_diffusion_parts(ldm, {**params, "autoencoder": autoencoder})
    known = compvis.KNOWN + compvis_conditioner.shared_first_stage(ldm.conditioner)
    return Description(parts, known, params, autoencoder, ldm)


def _first_stage_shapes(autoencoder: Any) -> PyTree:
    side = autoencoder.downsampling_factor
    key, image = jax.random.key(0), jnp.zeros((1, side, side, 3))
    return jax.eval_shape(autoencoder.init, key, image, key)["params"]
