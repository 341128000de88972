"""The denoising objective."""

import dataclasses
import functools

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

from ldm_jax.diffusion import NORMS, PREDICTIONS, WEIGHTINGS
from ldm_jax.diffusion.schedules import linear, rectified_flow, zero_terminal_snr
from ldm_jax.diffusion.time_sampling import importance, logit_normal
from ldm_jax.diffusion.weighting import min_snr_weights
from ldm_jax.tasks.denoising import DenoisingLoss, denoising_task
from ldm_jax.training.state import create_state
from ldm_jax.training.step import train_step

KEY = jax.random.key(3)
COLLECTIONS = {"latent_scale": jnp.float32(0.8)}


@functools.cache
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
    metrics = evaluate(DenoisingLoss(ldm, norm=NORMS["l1"]()), silent, frozen, batch)
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


def train(loss, params, frozen, batch, num_steps, *, rate=3e-3, **options):
    """(losses, state) of Adam on one batch, in one compiled program."""
    task, optimizers = denoising_task(loss), {"denoiser": optax.adam(rate)}
    state = create_state(
        {**params, **loss.init_params()},
        task=task,
        optimizers=optimizers,
        collections={**COLLECTIONS, **loss.init_collections()},
    )

    @jax.jit
    def step_fn(state):
        settings = {"task": task, "optimizers": optimizers, "ema": None, "key": KEY}
        return train_step(state, frozen, batch, **settings, **options)

    losses = []
    for _ in range(num_steps):
        state, metrics = step_fn(state)
        losses.append(float(metrics["denoiser/loss_simple"]))
    assert step_fn._cache_size() == 1
    return losses, state


def test_overfitting_one_batch_of_latents_lowers_the_loss():
    ldm, batch, params, frozen = setup(conditioner=tiny_class_conditioner())
    losses, _ = train(DenoisingLoss(ldm), params, frozen, batch, 150)
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:5])


PROCESSES = {
    "velocity": rectified_flow(1000),
    "v": zero_terminal_snr(linear(beta_start=0.00085, beta_end=0.012)),
}


@pytest.mark.parametrize("prediction", PROCESSES)
def test_training_up_to_pure_noise_lowers_the_loss(prediction):
    """Rectified flow as Stable Diffusion 3 trains it, zero terminal SNR with min-SNR."""
    ldm, batch, params, frozen = setup(prediction=prediction)
    schedule = PROCESSES[prediction]
    ldm = dataclasses.replace(ldm, schedule=schedule)
    if prediction == "velocity":
        loss = DenoisingLoss(ldm, time_sampling=logit_normal(schedule))
    else:
        loss = DenoisingLoss(ldm, weights=min_snr_weights(schedule, ldm.prediction))
    before = evaluate(loss, params, frozen, batch)
    _, state = train(loss, params, frozen, batch, 2)
    after = evaluate(loss, state.params, frozen, batch)
    assert float(after["loss"]) < float(before["loss"])
    assert float(after["loss_simple"]) < float(before["loss_simple"])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_gradients_of_min_snr_agree_between_predictions(prediction):
    """One belief about x0, said in each prediction: the same loss and slope."""
    schedule, gamma = linear(1000, 0.0015, 0.0195), 5.0
    z = jax.random.normal(jax.random.key(1), (2, 64, 4, 4, 2))
    t = jnp.arange(64) * 15 + 20
    a, s = (
        jnp.asarray(table)[t].reshape(-1, 1, 1, 1)
        for table in (schedule.signal_scales, schedule.noise_scales)
    )
    x_t = a * z[0] + s * z[1]
    target = PREDICTIONS[prediction].target
    weights = jnp.asarray(min_snr_weights(schedule, PREDICTIONS[prediction], gamma))

    def loss(gain):
        x0 = gain * x_t
        output = target(x0, (x_t - a * x0) / s, a, s)
        error = output - target(*z, a, s)
        return (weights[t] * NORMS["l2"]()(error)).mean()

    def expected(gain):
        snr = (a / s).reshape(-1) ** 2
        error = ((gain * x_t - z[0]) ** 2).mean((1, 2, 3))
        return (jnp.minimum(snr, gamma) * error).mean()

    ours, theirs = (jax.jit(jax.value_and_grad(f))(0.3) for f in (loss, expected))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_offset_noise_moves_each_channel_of_an_image_as_one():
    """The error of a silent eps model is -eps: its covariance is I + scale^2."""
    ldm, _, params, frozen = setup()
    silent = jax.tree.map(jnp.zeros_like, params)
    seen = []

    def norm(difference):
        seen.append(-difference)
        return difference.mean((1, 2, 3))

    loss = DenoisingLoss(ldm, norm=norm, offset_noise=0.5)
    plain = DenoisingLoss(ldm, norm=norm)
    moments = {"moments": jnp.zeros((2048, 4, 4, 4))}
    for each in (loss, plain):
        each.evaluate(silent, COLLECTIONS, frozen, moments, KEY)
    eps, plain_eps = seen
    x = np.asarray(eps).reshape(2048, 16, 2)
    covariance = np.einsum("bic,bjd->cidj", x, x) / 2048
    for c in (0, 1):
        np.testing.assert_allclose(covariance[c, :, c], np.eye(16) + 0.25, atol=0.15)
        np.testing.assert_allclose(covariance[c, :, 1 - c], 0, atol=0.15)
    offset = np.asarray(eps - plain_eps)  # its own stream: the rest is as without
    np.testing.assert_allclose(
        offset, offset[:, :1, :1] * np.ones((4, 4, 1)), atol=1e-6
    )


def test_log_variance_starts_as_if_it_were_not_there():
    ldm, batch, params, frozen = setup()
    plain = evaluate(DenoisingLoss(ldm), params, frozen, batch)
    loss = DenoisingLoss(ldm, learn_log_variance=True)
    params = {**params, **loss.init_params()}
    learned = evaluate(loss, params, frozen, batch)
    assert float(learned["loss"]) == float(plain["loss"])
    assert float(learned["log_variance"]) == 0


def test_log_variance_has_the_references_loss_and_gradient():
    """d / exp(r) + r, averaged: the slope at t is (1 - d / exp(r)) / b for each draw of t."""
    ldm, batch, params, frozen = setup(num_timesteps=4)
    weights = np.full(4, 2, np.float32)  # the reference's l_simple_weight
    loss = DenoisingLoss(ldm, weights=weights, vlb_scale=0.1, learn_log_variance=True)
    r = jnp.array([0.5, -1.0, 0.0, 2.0])

    def value(r):
        everything = {**params, "log_variance": {"by_timestep": r}}
        return loss(everything, COLLECTIONS, frozen, batch, 0, KEY)

    (total, aux), gradient = jax.value_and_grad(value, has_aux=True)(r)
    rows = DenoisingLoss(ldm, norm=lambda d: jnp.mean(d**2, (1, 2, 3)))
    times, d = rows._values(params, COLLECTIONS, frozen, batch, KEY, {}, train=True)
    d, t = np.asarray(d["loss_simple"], np.float64), np.asarray(times.t)
    r = np.asarray(r, np.float64)
    expected = (
        2 * (d / np.exp(r[t]) + r[t]).mean() + 0.1 * (loss.vlb_weights[t] * d).mean()
    )
    assert float(total) == pytest.approx(expected, rel=1e-5)
    slope = [2 * (1 - d[t == i] / np.exp(r[i])).sum() / 64 for i in range(4)]
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6)
    assert float(aux.metrics["log_variance"]) == pytest.approx(r[t].mean(), rel=1e-5)


def test_the_learned_log_variance_is_trained_and_finds_the_log_of_the_loss():
    ldm, batch, params, frozen = setup(num_timesteps=2)
    loss = DenoisingLoss(ldm, learn_log_variance=True)
    task = denoising_task(loss, trains=("backbone",))
    assert task.objectives["denoiser"].trains == ("backbone", "log_variance")
    only = dataclasses.replace(task.objectives["denoiser"], trains=("log_variance",))
    grads = jax.jit(
        jax.grad(
            lambda r: only.loss(
                {**params, "log_variance": {"by_timestep": r}},
                COLLECTIONS,
                frozen,
                batch,
                0,
                KEY,
            )[0]
        )
    )
    r = jnp.zeros(2)
    for _ in range(100):
        r -= 0.3 * grads(r)
    best = np.log(_mean_loss_by_t(ldm, params, frozen, batch))
    np.testing.assert_allclose(r, best, atol=1e-3)


def _mean_loss_by_t(ldm, params, frozen, batch):
    times, values = DenoisingLoss(ldm)._values(
        params, COLLECTIONS, frozen, batch, KEY, {}, train=True
    )
    t, d = np.asarray(times.t), np.asarray(values["loss_simple"])
    return [d[t == i].mean() for i in range(2)]


@pytest.mark.parametrize("grad_accumulation", [1, 4])
def test_importance_sampling_remembers_the_losses_of_training(grad_accumulation):
    ldm, batch, params, frozen = setup(num_timesteps=6)
    loss = DenoisingLoss(ldm, time_sampling=importance(ldm.schedule))
    losses, state = train(
        loss, params, frozen, batch, 4, grad_accumulation=grad_accumulation
    )
    memory = state.collections["time_sampling"]
    assert memory["count"].sum() == 4 * 64 and (memory["count"] >= 10).all()
    # The last ones all come from the last steps, at about the size that was logged.
    assert 0.2 * losses[-1] < float(memory["losses"].mean()) < 3 * losses[-1]
    assert set(state.collections) == {"latent_scale", "time_sampling"}


def test_importance_sampling_leaves_the_expected_loss_and_validation_alone():
    """Losses of 1 to 6 at the six timesteps, drawn in proportion to them."""
    ldm, batch, params, frozen = setup(num_timesteps=6)
    sizes = np.arange(1.0, 7.0, dtype=np.float32)
    loss = DenoisingLoss(
        ldm, weights=sizes, time_sampling=importance(ldm.schedule, uniform_rate=0.0)
    )
    memory = {"losses": jnp.outer(sizes, jnp.ones(10)), "count": jnp.full(6, 10)}
    silent = jax.tree.map(jnp.zeros_like, params)
    collections = {**COLLECTIONS, "time_sampling": memory}
    value, aux = loss(silent, collections, frozen, batch, 0, KEY)
    assert float(value) == pytest.approx(sizes.mean(), rel=0.05)  # without: 4.3
    assert float(aux.metrics["loss_simple"]) == pytest.approx(1, rel=0.3)
    # Validation must not follow what training has learnt of the losses.
    values = [
        loss.evaluate(params, {**COLLECTIONS, **c}, frozen, batch, KEY)["loss"]
        for c in (loss.init_collections(), {"time_sampling": memory})
    ]
    np.testing.assert_array_equal(*values)


def test_what_cannot_be_a_loss_is_refused():
    with pytest.raises(ValueError, match="offset_noise is -0.1"):
        DenoisingLoss(tiny_model(), offset_noise=-0.1)
    with pytest.raises(ValueError, match="ends in pure noise"):
        DenoisingLoss(dataclasses.replace(tiny_model(), schedule=rectified_flow(9)))
    with pytest.raises(ValueError, match="one entry for each of the"):
        DenoisingLoss(tiny_model(), weights=np.ones(10, np.float32))
