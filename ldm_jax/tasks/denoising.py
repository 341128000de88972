"""Training the denoiser of a latent diffusion model (Rombach et al. 2022, eq. 2 and 3)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ldm_jax.arrays import normal_like
from ldm_jax.conditioners.base import has_params
from ldm_jax.diffusion.norms import Norm, l2
from ldm_jax.diffusion.process import diffuse, scales_at
from ldm_jax.diffusion.time_sampling import Times, TimeSampling, uniform
from ldm_jax.diffusion.weighting import simple_weights, vlb_weights
from ldm_jax.latent_diffusion import LatentDiffusion
from ldm_jax.rng import named_keys
from ldm_jax.training.task import Aux, Objective, Task

PyTree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class DenoisingLoss:
    """The loss of the backbone's output against its target, at a random t per image.

    `loss = mean(weights[t] d) + vlb_scale mean(vlb_weights[t] d)`, where d is `norm` of one
    image. The reference calls the weight of the first term `l_simple_weight`: multiply
    `weights` by it. With a learned log-variance r the first term is
    `mean(weights[t] (d / exp(r[t]) + r[t]))`, the reference's `learn_logvar`: r[t] tends to
    the logarithm of the mean d at t, by which every t is then divided.

    Attributes:
      ldm: the model.
      norm: of `NORMS`; the published models use l2 or l1.
      weights: `[T]`; None for ones (see `WEIGHTINGS`).
      vlb_scale: the reference's `original_elbo_weight`, 0 in every published model.
      vlb_weights: `[T]`; None for those of `weighting.vlb_weights`. They enter the logged
        `loss_vlb` even when `vlb_scale` is 0.
      time_sampling: how t is drawn; None for uniformly.
      offset_noise: standard deviation of one more normal number for each image and
        channel, added to all of its eps (Guttenberg 2023, who takes 0.1); the target has it
        as well.
      learn_log_variance: train r, `params["log_variance"]["by_timestep"]` `[T]`; it starts
        at 0, where the loss is the same as without. The optimizer's weight decay is felt
        by r too, as in the reference.

    Raises:
      ValueError: for tables that do not have T entries, a negative `offset_noise`, or eps
        on a schedule that ends in pure noise.
    """

    ldm: LatentDiffusion
    norm: Norm = dataclasses.field(default_factory=l2)
    weights: Float[np.ndarray, "T"] | None = None
    vlb_scale: float = 0.0
    vlb_weights: Float[np.ndarray, "T"] | None = None
    time_sampling: TimeSampling | None = None
    offset_noise: float = 0.0
    learn_log_variance: bool = False

    def __post_init__(self):
        schedule, prediction = self.ldm.schedule, self.ldm.prediction
        if not self.offset_noise >= 0:
            raise ValueError(
                f"offset_noise is {self.offset_noise}: give 0 for none, or a positive number"
            )
        defaults = {"weights": simple_weights, "vlb_weights": vlb_weights}
        for name, default in defaults.items():
            table = getattr(self, name)
            if table is None:
                table = default(schedule, prediction)
                object.__setattr__(self, name, table)
            if table.shape != (schedule.num_timesteps,):
                raise ValueError(
                    f"{name} has shape {table.shape}; it needs one entry for each of the"
                    f" schedule's {schedule.num_timesteps} timesteps"
                )

    @functools.cached_property
    def _times(self) -> TimeSampling:
        return self.time_sampling or uniform(self.ldm.schedule)

    def init_params(self) -> dict[str, PyTree]:
        """Fresh parameters of the loss itself, by group."""
        if not self.learn_log_variance:
            return {}
        zeros = jnp.zeros(self.ldm.schedule.num_timesteps)
        return {"log_variance": {"by_timestep": zeros}}

    def init_collections(self) -> dict[str, PyTree]:
        """What the loss remembers between steps, at the start."""
        memory = self._times.init()
        return {"time_sampling": memory} if memory else {}

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
        by `vlb_weights`, `loss` what is minimised; with a learned log-variance also
        `log_variance`, the mean of r. All are corrected for how t was drawn, if that is.
        """
        del step
        memory = collections["time_sampling"] if self.init_collections() else {}
        times, values = self._values(
            params, collections, frozen, batch, key, memory, train=True
        )
        memory = self._times.update(memory, times.t, values["loss"])
        means = {n: (times.correction * value).mean() for n, value in values.items()}
        return means["loss"], Aux(means, {"time_sampling": memory} if memory else {})

    def evaluate(
        self,
        params: dict[str, PyTree],
        collections: Mapping[str, PyTree],
        frozen: Mapping[str, PyTree],
        batch: Mapping[str, jax.Array],
        key: jax.Array,
    ) -> dict[str, Float[Array, " b"]]:
        """The same metrics of each image, for validation: no units or conditions drop.

        t is drawn as at the start of training: importance sampling is uniform there.
        """
        memory = self._times.init()
        times, values = self._values(
            params, collections, frozen, batch, key, memory, train=False
        )
        return {name: times.correction * value for name, value in values.items()}

    def _values(
        self, params, collections, frozen, batch, key, memory, *, train: bool
    ) -> tuple[Times, dict[str, Float[Array, " b"]]]:
        ldm, latent_scale = self.ldm, collections["latent_scale"]
        keys = named_keys(
            key, "posterior", "time", "noise", "offset", "drop", "dropout"
        )
        z0 = ldm.encode(frozen, batch, keys["posterior"], latent_scale)
        cond = ldm.condition(
            params,
            frozen,
            batch,
            latent_scale=latent_scale,
            train=train,
            drop_key=keys["drop"],
        )
        times = self._times.draw(memory, keys["time"], z0.shape[0])
        eps = self._noise(keys, z0)
        z_t = diffuse(ldm.schedule, z0, eps, times.t)
        output = ldm.predict(
            params, z_t, times.t, cond, train=train, dropout_key=keys["dropout"]
        )
        scales = scales_at(ldm.schedule, times.t, z0.ndim)
        target = ldm.prediction.target(z0, eps, *scales)
        distance = self.norm(output.astype(jnp.float32) - target)
        return times, self._weigh(params, distance, times.t)

    def _noise(
        self, keys: Mapping[str, jax.Array], z0: Float[Array, "b h w c"]
    ) -> Float[Array, "b h w c"]:
        eps = normal_like(keys["noise"], z0)
        if self.offset_noise == 0:
            return eps
        offset = normal_like(keys["offset"], z0[:, :1, :1])  # [b 1 1 c]
        return eps + self.offset_noise * offset

    def _weigh(
        self, params: PyTree, distance: Float[Array, " b"], t: Int[Array, " b"]
    ) -> dict[str, Float[Array, " b"]]:
        values = {
            "loss_simple": distance,
            "loss_vlb": jnp.asarray(self.vlb_weights)[t] * distance,
        }
        likelihood = distance
        if self.learn_log_variance:
            log_variance = params["log_variance"]["by_timestep"][t]
            values["log_variance"] = log_variance
            likelihood = distance * jnp.exp(-log_variance) + log_variance
        weights = jnp.asarray(self.weights)[t]
        return values | {
            "loss": weights * likelihood + self.vlb_scale * values["loss_vlb"]
        }


def denoising_task(loss: DenoisingLoss, trains: tuple[str, ...] | None = None) -> Task:
    """The task with one objective, "denoiser".

    Args:
      loss: what is minimised. `frozen` is `{"autoencoder": params}`;
        `collections["latent_scale"]` a float32 scalar.
      trains: groups of the model; None for the backbone and, if it has parameters, the
        conditioner. A group left out stays as it is. What the loss itself learns is
        always trained.
    """
    if trains is None:
        has_more = has_params(loss.ldm.conditioner)
        trains = ("backbone", "conditioner") if has_more else ("backbone",)
    own = tuple(loss.init_params())
    return Task({"denoiser": Objective(trains=(*trains, *own), loss=loss)})
