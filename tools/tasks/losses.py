"""What a condition is worth to one model: its loss with it, another and none."""

# A ConfigDict's fields are dynamic.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float

import ldm_jax
from ldm_jax import build_diffusion
from ldm_jax.arrays import pixels_to_image
from ldm_jax.latent_diffusion import LatentDiffusion
from ldm_jax.model import Model
from ldm_jax.nn.conditioning import Conditioning
from ldm_jax.nn.jit import jit
from ldm_jax.tasks.denoising import DenoisingLoss
from tools.tasks.held_out import BATCH_SIZE, HeldOut, held_out

DRAWS = 8  # of noise and timesteps, for each picture


class Unasked(LatentDiffusion):
    """The same model, which is given the null condition whatever the batch says."""

    def condition(self, params, frozen, batch, **_) -> Conditioning:
        """What guidance leaves of it."""
        return self.null_condition(params, frozen, len(batch["image"]))


def with_and_without(workdir: Path, count: int) -> dict[str, float]:
    """Mean losses of held-out pictures under their conditions, others' and none.

    All with the same noise, timesteps and draws of the posterior, of the parameters
    that samples are drawn with; of `count` pictures, several times each. Training sees
    the null condition seldom, so that it is another picture's which tells the worth of
    this one's.

    Returns:
      "given", "another's" and "null".

    Raises:
      ValueError: if the model has no null condition.
    """
    model = ldm_jax.load(workdir)
    pictures = held_out(model, workdir, count)
    loss = build_diffusion.denoising_loss(model.config.diffusion, model.ldm)
    parts = dataclasses.fields(LatentDiffusion)
    bare = Unasked(**{part.name: getattr(model.ldm, part.name) for part in parts})
    # Neighbours in the list are often alike.
    shift = max(1, len(pictures) // 4)
    fields = {n: np.roll(x, shift, axis=0) for n, x in pictures.fields.items()}
    others = dataclasses.replace(pictures, fields=fields)
    return {
        "given": _mean(model, loss, pictures),
        "another's": _mean(model, loss, others),
        "null": _mean(model, dataclasses.replace(loss, ldm=bare), pictures),
    }


def _mean(model: Model, loss: DenoisingLoss, pictures: HeldOut) -> float:
    frozen = {"autoencoder": model.params["autoencoder"]}
    scale = {"latent_scale": model.params["latent_scale"]}

    @jit
    def evaluate(params, batch, key) -> Float[Array, " b"]:
        return loss.evaluate(params, scale, frozen, batch, key)["loss_simple"]

    batch = {"image": np.asarray(pixels_to_image(pictures.pixels)), **pictures.fields}
    values = []
    for start in range(0, len(pictures), BATCH_SIZE):
        rows = {name: x[start : start + BATCH_SIZE] for name, x in batch.items()}
        for draw in range(DRAWS):
            key = jax.random.fold_in(jax.random.key(draw), start)
            values.append(np.asarray(evaluate(model.params, rows, key)))
    return float(np.concatenate(values).mean())
