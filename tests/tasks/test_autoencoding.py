"""The first stage's two objectives against torch, and what `disc_start` does."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax import trees
from ldm_jax.adversarial.patchgan import PatchDiscriminator
from ldm_jax.rng import named_key
from ldm_jax.tasks.autoencoding import (
    AdversarialLoss,
    Autoencoding,
    autoencoding_task,
)
from ldm_jax.tasks.reconstruction import PUBLISHED_NLL_REDUCTION, ReconstructionLoss
from ldm_jax.training.state import create_state
from ldm_jax.training.step import train_step

torch = pytest.importorskip("torch")

from tests.parity import torch_first_stage as reference
from tests.parity.torch_lpips import lpips_params, torch_lpips

SIZE = 16
NUM_LAYERS = 2
REGULARIZER_WEIGHT = {"kl": 1e-2, "vq": 1.0}
CASES = pytest.mark.parametrize("kind", ["kl", "vq"])


def make_spec(kind, *, perceptual_weight=1.0, disc_start=0, disc_loss="hinge"):
    adversarial = AdversarialLoss(
        disc_loss=disc_loss, disc_weight=0.7, disc_start=disc_start
    )
    return Autoencoding(
        reference.TinyAutoencoder(kind),
        ReconstructionLoss(
            perceptual_weight=perceptual_weight,
            nll_reduction=PUBLISHED_NLL_REDUCTION[kind],
        ),
        REGULARIZER_WEIGHT[kind],
        PatchDiscriminator(ndf=8, num_layers=NUM_LAYERS),
        adversarial,
    )


def make_inputs(spec):
    """params, collections and a batch of two pictures."""
    random = np.random.default_rng(0)
    coarse = random.uniform(-1, 1, (2, 4, 4, 3)).astype(np.float32)
    image = jax.image.resize(coarse, (2, SIZE, SIZE, 3), "linear")

    @jax.jit
    def init(key):
        ae = spec.autoencoder.init(key, image, key)["params"]
        disc = dict(spec.discriminator.init(key, image, train=False))
        # Wider than the published 0.02, so that every layer's gradient shows.
        params = disc.pop("params")
        params = jax.tree.map(lambda x: 5 * x if x.ndim == 4 else x, params)
        return {"autoencoder": ae, "discriminator": params}, {"discriminator": disc}

    params, collections = init(jax.random.key(1))
    return params, collections, {"image": image}


def gradients(spec, name, inputs, *, step=0, frozen=None):
    """(loss, aux, gradient of the trained group) of one objective, jitted."""
    params, collections, batch = inputs
    objective = autoencoding_task(spec).objectives[name]
    (group,) = objective.trains

    @jax.jit
    def run(frozen, params, collections, batch, step):
        def loss_fn(trained):
            return objective.loss(
                {**params, group: trained}, collections, frozen, batch, step, KEY
            )

        return jax.value_and_grad(loss_fn, has_aux=True)(params[group])

    frozen = {"lpips": lpips_params()} if frozen is None else frozen
    (loss, aux), grads = run(frozen, params, collections, batch, jnp.int32(step))
    return loss, aux, grads


KEY = jax.random.key(3)


def smooth_distance(params, x, target, *, dtype):
    """Stands for LPIPS: no ReLU whose kink one rounding error could cross."""
    return jnp.square(jnp.sin(3 * x) - jnp.sin(3 * target)).sum(-1).mean((1, 2))


def torch_smooth_distance(x, target):
    each = (torch.sin(3 * x) - torch.sin(3 * target)).square()
    return each.sum(1, keepdim=True).mean((2, 3), keepdim=True)


def in_torch(kind, inputs, lpips=torch_smooth_distance):
    """The torch model, its image, and the posterior noise that ours will draw."""
    params, _, batch = inputs
    model = reference.TorchFirstStage(
        kind,
        reference.torch_leaves(trees.flatten(params["autoencoder"])),
        reference.torch_leaves(trees.flatten(params["discriminator"])),
        num_layers=NUM_LAYERS,
        lpips=lpips,
        disc_weight=0.7,
        regularizer_weight=REGULARIZER_WEIGHT[kind],
    )
    noise = jax.random.normal(named_key(KEY, "posterior"), (2, SIZE // 2, SIZE // 2, 2))
    return model, reference.to_torch(batch["image"]), reference.to_torch(noise)


def assert_gradients_agree(actual, leaves, tolerance=1e-4):
    actual = trees.flatten(actual)
    assert set(actual) == set(leaves)
    for name, leaf in leaves.items():
        expected = reference.our_layout(leaf.grad)
        assert np.abs(expected).max() > 0, name
        error = np.abs(actual[name] - expected).max() / np.abs(expected).max()
        assert error < tolerance, (name, error)


@pytest.fixture(scope="module", params=["kl", "vq"])
def generator(request):
    """One generator pass of each kind, ours and torch's."""
    kind = request.param
    spec = make_spec(kind)
    inputs = make_inputs(spec)
    model, x, noise = in_torch(kind, inputs)
    theirs = model.generator_loss(x, noise)
    theirs[0].backward()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ldm_jax.tasks.reconstruction.lpips", smooth_distance)
        ours = gradients(spec, "generator", inputs, frozen={"lpips": None})
    return SimpleNamespace(inputs=inputs, ours=ours, theirs=theirs, model=model)


def test_generator_losses_and_adaptive_weight_equal_torchs(generator):
    loss, aux, _ = generator.ours
    total, nll, g_loss, weight = (x.item() for x in generator.theirs)
    assert weight > 0
    np.testing.assert_allclose(loss, total, rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["nll_loss"], nll, rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["g_loss"], g_loss, rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["d_weight"], weight, rtol=1e-4)


def test_generator_gradients_equal_torchs(generator):
    assert_gradients_agree(generator.ours[2], generator.model.ae)


def test_generator_gradients_with_lpips_equal_torchs_but_for_kinks():
    """A ReLU of VGG16 that changes sides under rounding moves a gradient by 0.5%."""
    spec = make_spec("kl")
    inputs = make_inputs(spec)
    model, x, noise = in_torch("kl", inputs, torch_lpips())
    total, *_ = model.generator_loss(x, noise)
    total.backward()
    loss, _, grads = gradients(spec, "generator", inputs)
    np.testing.assert_allclose(loss, total.item(), rtol=2e-3)
    assert_gradients_agree(grads, model.ae, 0.02)


def test_the_generators_pass_moves_the_running_statistics(generator):
    before = trees.flatten(generator.inputs[1]["discriminator"])
    after = trees.flatten(generator.ours[1].collections["discriminator"])
    assert set(before) == set(after) and len(before) == 2 * NUM_LAYERS
    for name in before:
        assert np.any(before[name] != after[name]), name


@CASES
def test_discriminator_gradients_equal_torchs(kind):
    disc_loss = {"kl": "hinge", "vq": "vanilla"}[kind]
    spec = make_spec(kind, disc_loss=disc_loss)
    inputs = make_inputs(spec)
    model, x, noise = in_torch(kind, inputs)
    expected = model.discriminator_loss(x, noise, disc_loss)
    expected.backward()
    loss, aux, grads = gradients(spec, "discriminator", inputs)
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["disc_loss"], loss)
    assert_gradients_agree(grads, model.disc)
    assert all(leaf.grad is None for leaf in model.ae.values())


def test_statistics_pass_through_real_then_fake():
    spec = make_spec("vq", perceptual_weight=0)
    params, collections, batch = inputs = make_inputs(spec)
    _, aux, _ = gradients(spec, "discriminator", inputs, frozen={})
    variables = {"params": params["discriminator"], **collections["discriminator"]}
    fake = jax.jit(spec.autoencoder.apply)(
        {"params": params["autoencoder"]}, batch["image"], KEY
    )
    discriminate = jax.jit(
        partial(spec.discriminator.apply, train=True, mutable=["batch_stats"])
    )
    for image in (batch["image"], fake):
        _, updated = discriminate(variables, image)
        variables = {**variables, **updated}
    expected = trees.flatten(variables["batch_stats"])
    actual = trees.flatten(aux.collections["discriminator"]["batch_stats"])
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-4, atol=1e-6)


def test_the_discriminator_takes_part_from_disc_start_on():
    spec = make_spec("kl", perceptual_weight=0, disc_start=5)
    without = Autoencoding(spec.autoencoder, spec.reconstruction, 1e-2)
    inputs = make_inputs(spec)
    plain = gradients(without, "generator", inputs, frozen={})
    early = gradients(spec, "generator", inputs, step=4, frozen={})
    late = gradients(spec, "generator", inputs, step=5, frozen={})
    assert early[1].metrics["disc_factor"] == 0
    assert early[1].metrics["d_weight"] == 0
    assert late[1].metrics["disc_factor"] == 1
    assert late[1].metrics["d_weight"] > 0
    for ours, expected in zip(
        jax.tree.leaves(early[2]), jax.tree.leaves(plain[2]), strict=True
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    kernel = late[2]["decoder"]["conv_out"]["kernel"]
    assert not np.allclose(kernel, early[2]["decoder"]["conv_out"]["kernel"])
    unmoved = early[1].collections["discriminator"]
    assert trees.num_elements(unmoved) > 0
    jax.tree.map(np.testing.assert_array_equal, unmoved, inputs[1]["discriminator"])
    loss, aux, grads = gradients(spec, "discriminator", inputs, step=4, frozen={})
    assert loss == 0 and aux.metrics["disc_loss"] == 0
    assert all(np.all(g == 0) for g in jax.tree.leaves(grads))


@CASES
def test_two_objectives_train_together_for_a_few_steps(kind):
    spec = make_spec(kind, perceptual_weight=0, disc_start=2)
    params, collections, batch = make_inputs(spec)
    task = autoencoding_task(spec)
    optimizers = dict.fromkeys(task.objectives, optax.adam(1e-2, b1=0.5, b2=0.9))
    state = create_state(
        params, task=task, optimizers=optimizers, collections=collections
    )
    step = jax.jit(
        lambda state, batch: train_step(
            state, {}, batch, task=task, optimizers=optimizers, ema=None, key=KEY
        )
    )
    history = []
    for _ in range(12):
        state, metrics = step(state, batch)
        history.append(metrics)
    assert history[-1]["generator/rec_loss"] < 0.9 * history[0]["generator/rec_loss"]
    factors = [float(m["generator/disc_factor"]) for m in history]
    assert factors == [0, 0] + [1] * 10
    assert history[-1]["discriminator/disc_loss"] > 0
    assert all(np.isfinite(x) for m in history for x in m.values())


def test_a_discriminator_and_its_loss_come_together_or_not_at_all():
    spec = make_spec("kl")
    with pytest.raises(ValueError, match="give both"):
        Autoencoding(
            spec.autoencoder, spec.reconstruction, 1.0, adversarial=spec.adversarial
        )
    with pytest.raises(ValueError, match="disc_loss is 'wasserstein'.*hinge, vanilla"):
        AdversarialLoss(disc_loss="wasserstein")
