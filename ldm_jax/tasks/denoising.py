"""Training the denoiser of a latent diffusion model (Rombach et al. 2022, eq. 2 and 3)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ldm_jax.arrays import normal_like
from ldm_jax.conditioners.base import has_params
from ldm_jax.diffusion.process import diffuse, scales_at
from ldm_jax.diffusion.weighting import simple_weights, vlb_weights
from ldm_jax.latent_diffusion import LatentDiffusion
from ldm_jax.rng import named_keys
from ldm_jax.training.task import Aux, Objective, Task

PyTree = Any
Norm = Literal["l1", "l2"]

NORMS = {"l1": jnp.abs, "l2": jnp.square}


@dataclasses.dataclass(frozen=True, eq=False)
class DenoisingLoss:
    """The loss of the backbone's output against its target, at a random t per image.

    `loss = mean(weights[t] d) + vlb_scale mean(vlb_weights[t] d)`, where d is the mean
    distance of one image over h, w, c. The reference calls the weight of the first term
    `l_simple_weight`: multiply `weights` by it.

    Attributes:
      ldm: the model.
      norm: "l2" or "l1"; the published models use either.
      weights: `[T]`; None for ones (see `WEIGHTINGS`).
      vlb_scale: the reference's `original_elbo_weight`, 0 in every published model.
      vlb_weights: `[T]`; None for those of `weighting.vlb_weights`. They enter the logged
        `loss_vlb` even when `vlb_scale` is 0.

    Raises:
      ValueError: for an unknown norm or tables that do not have T entries.
    """

    ldm: LatentDiffusion
    norm: Norm = "l2"
    weights: Float[np.ndarray, "T"] | None = None
    vlb_scale: float = 0.0
    vlb_weights: Float[np.ndarray, "T"] | None = None

    def __post_init__(self):
        if self.norm not in NORMS:
            raise ValueError(f"loss norm is {self.norm!r}; choose one of {[*NORMS]}")
        defaults = {"weights": simple_weights, "vlb_weights": vlb_weights}
        num_timesteps = self.ldm.schedule.num_timesteps
        for name, default in defaults.items():
            table = getattr(self, name)
            if table is None:
                table = default(self.ldm.schedule, self.ldm.prediction)
                object.__setattr__(self, name, table)
            if table.shape != (num_timesteps,):
                raise ValueError(
                    f"{name} has shape {table.shape}; it needs one entry for each of the"
                    f" schedule's {num_timesteps} timesteps"
                )

    def __call__(
        self,
        params: dict[str, PyTree],
        collections: Mapping[str, PyTree],
        frozen: Mapping[str, PyTree],
        batch: Mapping[str, jax.Array],
        step: jax.Array,
        key: jax.Array,
    ) -> tuple[Float[Array, ""], Aux]:
        """The training loss: a `LossFn`; reads `collections["latent_scale"]`.

        Metrics: `loss_simple` is the unweighted mean distance, `loss_vlb` the mean weighted
        by `vlb_weights`, `loss` what is minimised.
        """
        del step
        values = self._values(params, collections, frozen, batch, key, train=True)
        metrics = {name: value.mean() for name, value in values.items()}
        return metrics["loss"], Aux(metrics=metrics, collections={})

    def evaluate(
        self,
        params: dict[str, PyTree],
        collections: Mapping[str, PyTree],
        frozen: Mapping[str, PyTree],
        batch: Mapping[str, jax.Array],
        key: jax.Array,
    ) -> dict[str, Float[Array, " b"]]:
        """The same metrics of each image, for validation: no units or conditions drop."""
        return self._values(params, collections, frozen, batch, key, train=False)

    def _values(
        self, params, collections, frozen, batch, key, *, train: bool
    ) -> dict[str, Float[Array, " b"]]:
        ldm = self.ldm
        keys = named_keys(key, "posterior", "time", "noise", "drop", "dropout")
        z0 = ldm.encode(frozen, batch, keys["posterior"], collections["latent_scale"])
        cond = ldm.condition(
            params,
            frozen,
            batch,
            latent_scale=collections["latent_scale"],
            train=train,
            drop_key=keys["drop"],
        )
        t = jax.random.randint(
            keys["time"], (z0.shape[0],), 0, ldm.schedule.num_timesteps
        )
        eps = normal_like(keys["noise"], z0)
        z_t = diffuse(ldm.schedule, z0, eps, t)
        output = ldm.predict(
            params, z_t, t, cond, train=train, dropout_key=keys["dropout"]
        )
        target = ldm.prediction.target(z0, eps, *scales_at(ldm.schedule, t, z0.ndim))
        distance = NORMS[self.norm](output.astype(jnp.float32) - target)
        distance = distance.mean(axis=(1, 2, 3))  # [b h w c] -> [b]
        return self._weigh(distance, t)

    def _weigh(self, distance: Array, t: Array) -> dict[str, Float[Array, " b"]]:
        loss_vlb = jnp.asarray(self.vlb_weights)[t] * distance
        loss = jnp.asarray(self.weights)[t] * distance + self.vlb_scale * loss_vlb
        return {"loss_simple": distance, "loss_vlb": loss_vlb, "loss": loss}


def denoising_task(loss: DenoisingLoss, trains: tuple[str, ...] | None = None) -> Task:
    """The task with one objective, "denoiser".

    Args:
      loss: what is minimised. `frozen` is `{"autoencoder": params}`;
        `collections["latent_scale"]` a float32 scalar.
      trains: parameter groups; None for the backbone and, if it has parameters, the
        conditioner. A group left out stays as it is.
    """
    if trains is None:
        has_more = has_params(loss.ldm.conditioner)
        trains = ("backbone", "conditioner") if has_more else ("backbone",)
    return Task({"denoiser": Objective(trains=trains, loss=loss)})
