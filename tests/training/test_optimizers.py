"""Optimizers against PyTorch, schedules against the reference's numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.training import optimizers

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "lr_multipliers.npz")


def test_lambda_linear_matches_the_reference(golden):
    schedule = optimizers.lambda_linear(1.0, warmup_steps=10_000, start_scale=1e-6)
    ours = [float(schedule(int(n))) for n in golden["in/step"]]
    np.testing.assert_allclose(ours, golden["out/lambda_linear"], rtol=1e-6)


def test_lambda_warmup_cosine_matches_the_reference(golden):
    schedule = optimizers.lambda_warmup_cosine(
        1.0,
        warmup_steps=1000,
        decay_steps=50_000,
        start_scale=0.001,
        max_scale=0.1,
        min_scale=0.0001,
    )
    ours = [float(schedule(int(n))) for n in golden["in/step"]]
    np.testing.assert_allclose(ours, golden["out/lambda_cosine"], rtol=2e-6)


@pytest.mark.parametrize("name", optimizers.SCHEDULES)
def test_schedules_scale_the_base_rate(name):
    lengths = {"warmup_steps": 2, "decay_steps": 9} if "cosine" in name else {}
    one, half = (optimizers.SCHEDULES[name](lr, **lengths) for lr in (1.0, 0.5))
    assert float(half(1)) == pytest.approx(0.5 * float(one(1)))


def train(optimizer, num_steps=20):
    """A badly scaled quadratic."""
    w = {"w": jnp.array([1.0, -2.0, 3.0]), "bias": jnp.array([0.5])}
    scale = {"w": jnp.array([1.0, 10.0, 0.1]), "bias": jnp.array([1.0])}
    state = optimizer.init(w)
    for _ in range(num_steps):
        grads = {name: scale[name] * w[name] for name in w}
        updates, state = optimizer.update(grads, state, w)
        w = optax.apply_updates(w, updates)
    return w


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_optimizer_matches_torch(name):
    torch = pytest.importorskip("torch")
    w = {
        "w": torch.tensor([1.0, -2.0, 3.0], requires_grad=True),
        "bias": torch.tensor([0.5], requires_grad=True),
    }
    scale = {"w": torch.tensor([1.0, 10.0, 0.1]), "bias": torch.tensor([1.0])}
    theirs = {
        "adam": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9)),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    }[name](list(w.values()))
    for _ in range(20):
        theirs.zero_grad()
        sum((scale[n] * w[n] ** 2).sum() / 2 for n in w).backward()
        theirs.step()
    ours = train(optimizers.OPTIMIZERS[name](0.1))
    for n, value in w.items():
        np.testing.assert_allclose(ours[n], value.detach().numpy(), rtol=1e-4)


def test_weight_decay_falls_on_biases_too():
    optimizer = optimizers.adamw(1.0, weight_decay=0.1)
    params = {"bias": jnp.array([2.0])}
    updates, _ = optimizer.update(
        {"bias": jnp.zeros(1)}, optimizer.init(params), params
    )
    assert float(updates["bias"][0]) == pytest.approx(-0.2)


def test_gradients_are_clipped_before_adam_sees_them():
    optimizer = optimizers.adam(0.1, b1=0.0, b2=0.0, eps=1.0, max_grad_norm=1.0)
    params = {"w": jnp.zeros(1)}
    updates, _ = optimizer.update(
        {"w": jnp.array([100.0])}, optimizer.init(params), params
    )
    assert float(updates["w"][0]) == pytest.approx(-0.05)  # 0.1 * 1 / (1 + eps)


def test_clipping_can_be_turned_on_in_a_run_that_began_without():
    params = {"w": jnp.zeros(3)}
    states = [
        optimizers.adamw(0.1, max_grad_norm=norm).init(params) for norm in (None, 1.0)
    ]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
