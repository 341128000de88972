"""The denoising objective."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_latent_diffusion import (
    tiny_batch,
    tiny_class_conditioner,
    tiny_model,
    tiny_params,
)

from ldm_jax.diffusion import WEIGHTINGS
from ldm_jax.tasks.denoising import DenoisingLoss, denoising_task
from ldm_jax.training.state import create_state
from ldm_jax.training.step import train_step

KEY = jax.random.key(3)
COLLECTIONS = {"latent_scale": jnp.float32(0.8)}


def setup(**options):
    ldm, batch = tiny_model(**options), tiny_batch(batch_size=64)
    return ldm, batch, *tiny_params(ldm, batch)


def evaluate(loss, params, frozen, batch, key=KEY):
    values = loss.evaluate(params, COLLECTIONS, frozen, batch, key)
    assert {value.shape for value in values.values()} == {(64,)}
    return {name: value.mean() for name, value in values.items()}


@pytest.mark.parametrize("prediction,expected", [("eps", 1.0), ("v", None)])
def test_a_backbone_that_says_nothing_pays_the_variance_of_its_target(
    prediction, expected
):
    ldm, batch, params, frozen = setup(prediction=prediction)
    silent = jax.tree.map(jnp.zeros_like, params)
    metrics = evaluate(DenoisingLoss(ldm), silent, frozen, batch)
    if expected is None:  # v = a eps - s x0 of uncorrelated eps and x0
        z0 = ldm.encode(frozen, batch, KEY, COLLECTIONS["latent_scale"])
        share = ldm.schedule.exact_alphas_cumprod.mean()
        expected = share + (1 - share) * float((z0**2).mean())
    assert float(metrics["loss_simple"]) == pytest.approx(expected, rel=0.15)
    assert metrics["loss"] == metrics["loss_simple"]


def test_l1_of_a_silent_backbone_is_the_mean_of_a_half_normal():
    ldm, batch, params, frozen = setup()
    silent = jax.tree.map(jnp.zeros_like, params)
    metrics = evaluate(DenoisingLoss(ldm, norm="l1"), silent, frozen, batch)
    assert float(metrics["loss"]) == pytest.approx((2 / np.pi) ** 0.5, rel=0.05)


def test_vlb_and_timestep_weights_enter_the_loss():
    ldm, batch, params, frozen = setup()
    plain = evaluate(DenoisingLoss(ldm), params, frozen, batch)
    weights = np.full(1000, 2, np.float32)
    loss = DenoisingLoss(ldm, weights=weights, vlb_scale=0.5, vlb_weights=3 * weights)
    metrics = evaluate(loss, params, frozen, batch)
    assert float(metrics["loss_simple"]) == float(plain["loss_simple"])
    simple = float(plain["loss_simple"])
    assert float(metrics["loss_vlb"]) == pytest.approx(6 * simple, rel=1e-5)
    assert float(metrics["loss"]) == pytest.approx((2 + 0.5 * 6) * simple, rel=1e-5)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_every_weighting_gives_a_finite_loss_and_gradient(name):
    ldm, batch, params, frozen = setup(prediction="v")
    weights = WEIGHTINGS[name](ldm.schedule, ldm.prediction)
    loss = DenoisingLoss(ldm, weights=weights)
    (value, _), grads = jax.value_and_grad(loss, has_aux=True)(
        params, COLLECTIONS, frozen, batch, 0, KEY
    )
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


def test_the_latent_scale_of_the_state_is_used():
    ldm, batch, params, frozen = setup(prediction="x0")
    silent = jax.tree.map(jnp.zeros_like, params)
    loss = DenoisingLoss(ldm)
    small, large = (
        loss.evaluate(silent, {"latent_scale": scale}, frozen, batch, KEY)[
            "loss"
        ].mean()
        for scale in (1.0, 3.0)
    )
    assert float(large / small) == pytest.approx(9, rel=1e-4)


def test_images_and_their_cached_moments_cost_the_same():
    ldm, batch, params, frozen = setup()
    variables = {"params": frozen["autoencoder"]}
    latent = ldm.autoencoder.apply(variables, batch["image"], method="encode")
    loss = DenoisingLoss(ldm)
    from_images = evaluate(loss, params, frozen, batch)["loss"]
    from_cache = evaluate(loss, params, {}, {"moments": latent.moments})["loss"]
    assert float(from_images) == pytest.approx(float(from_cache), rel=1e-6)


def test_training_drops_units_and_conditions_but_validation_does_not():
    conditioner = tiny_class_conditioner()
    ldm, batch, params, frozen = setup(conditioner=conditioner)
    loss = DenoisingLoss(ldm)
    value, aux = loss(params, COLLECTIONS, frozen, batch, 0, KEY)
    assert set(aux.metrics) == {"loss", "loss_simple", "loss_vlb"}
    assert aux.collections == {}
    assert float(value) != float(evaluate(loss, params, frozen, batch)["loss"])


def test_the_task_trains_the_conditioner_only_if_there_is_one():
    unconditional = denoising_task(DenoisingLoss(tiny_model()))
    assert unconditional.objectives["denoiser"].trains == ("backbone",)
    ldm = tiny_model(conditioner=tiny_class_conditioner())
    task = denoising_task(DenoisingLoss(ldm))
    assert task.objectives["denoiser"].trains == ("backbone", "conditioner")
    frozen_conditioner = denoising_task(DenoisingLoss(ldm), trains=("backbone",))
    assert frozen_conditioner.objectives["denoiser"].trains == ("backbone",)


def test_overfitting_one_batch_of_latents_lowers_the_loss():
    ldm, batch, params, frozen = setup(conditioner=tiny_class_conditioner())
    task = denoising_task(DenoisingLoss(ldm))
    optimizers = {"denoiser": optax.adam(3e-3)}
    state = create_state(
        params, task=task, optimizers=optimizers, collections=COLLECTIONS
    )

    @jax.jit
    def step_fn(state):
        return train_step(
            state, frozen, batch, task=task, optimizers=optimizers, ema=None, key=KEY
        )

    losses = []
    for _ in range(150):
        state, metrics = step_fn(state)
        losses.append(float(metrics["denoiser/loss_simple"]))
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:5])
    assert step_fn._cache_size() == 1


def test_unknown_norms_and_tables_of_the_wrong_length_are_refused():
    with pytest.raises(ValueError, match="choose one of"):
        DenoisingLoss(tiny_model(), norm="huber")
    with pytest.raises(ValueError, match="one entry for each of the"):
        DenoisingLoss(tiny_model(), weights=np.ones(10, np.float32))
