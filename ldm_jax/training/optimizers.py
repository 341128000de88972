"""Optimizers with the original's settings, and its learning-rate schedules, in optax.

A schedule takes the number of steps done before this one (0 at the first) and gives the
learning rate. The scaling of a base rate by batch and devices is the config's business.
"""

import jax.numpy as jnp
import optax


def constant(learning_rate: float) -> optax.Schedule:
    """The same rate at every step."""
    return optax.constant_schedule(learning_rate)


def lambda_linear(
    learning_rate: float,
    *,
    warmup_steps: int = 10_000,
    start_scale: float = 1e-6,
    max_scale: float = 1.0,
    min_scale: float = 1.0,
    cycle_length: float = 1e13,
) -> optax.Schedule:
    """Linear warm-up, then a line towards `min_scale` at `cycle_length`.

    Source: the reference's LambdaLinearScheduler with one cycle. With its usual
    `min_scale = max_scale = 1` the rate is constant after the warm-up.
    """

    def schedule(count):
        n = jnp.asarray(count, jnp.float32)
        rising = start_scale + (max_scale - start_scale) * n / max(warmup_steps, 1)
        left = (cycle_length - n) / cycle_length
        falling = min_scale + (max_scale - min_scale) * left
        return learning_rate * jnp.where(n < warmup_steps, rising, falling)

    return schedule


def lambda_warmup_cosine(
    learning_rate: float,
    *,
    warmup_steps: int,
    decay_steps: int,
    start_scale: float = 0.0,
    max_scale: float = 1.0,
    min_scale: float = 0.0,
) -> optax.Schedule:
    """Linear warm-up, then half a cosine down to `min_scale` at step `decay_steps`.

    Source: the reference's LambdaWarmUpCosineScheduler. It is documented there for a base
    rate of 1, but inpainting_big multiplies it with 1e-6, so that its true peak is
    `max_scale` 0.1 of that.
    """

    def schedule(count):
        n = jnp.asarray(count, jnp.float32)
        rising = start_scale + (max_scale - start_scale) * n / max(warmup_steps, 1)
        done = jnp.clip((n - warmup_steps) / max(decay_steps - warmup_steps, 1), 0, 1)
        cosine = 0.5 * (max_scale - min_scale) * (1 + jnp.cos(jnp.pi * done))
        return learning_rate * jnp.where(n < warmup_steps, rising, min_scale + cosine)

    return schedule


SCHEDULES = {
    "constant": constant,
    "lambda_linear": lambda_linear,
    "lambda_warmup_cosine": lambda_warmup_cosine,
}


def adam(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.5,
    b2: float = 0.9,
    eps: float = 1e-8,
    max_grad_norm: float | None = None,
) -> optax.GradientTransformation:
    """Adam as the original trains its autoencoders and discriminators."""
    return _clipped(optax.adam(learning_rate, b1=b1, b2=b2, eps=eps), max_grad_norm)


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    max_grad_norm: float | None = None,
) -> optax.GradientTransformation:
    """AdamW with PyTorch's defaults, as the original trains its denoisers.

    The decay falls on every parameter, biases and norm scales among them, as it does
    there.
    """
    optimizer = optax.adamw(
        learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay
    )
    return _clipped(optimizer, max_grad_norm)


OPTIMIZERS = {"adam": adam, "adamw": adamw}


def _clipped(
    optimizer: optax.GradientTransformation, max_grad_norm: float | None
) -> optax.GradientTransformation:
    """Scale the gradient down to a global norm of `max_grad_norm` first, if given.

    The state is the optimizer's own, so that a run can go on with another choice.
    """
    if max_grad_norm is None:
        return optimizer
    clip = optax.clip_by_global_norm(max_grad_norm)

    def update(updates, state, params=None):
        updates, _ = clip.update(updates, optax.EmptyState(), params)
        return optimizer.update(updates, state, params)

    return optax.GradientTransformation(optimizer.init, update)
