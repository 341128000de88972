"""Rows of the denoiser: one forward pass, and one step of training."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import references
from benchmarks.compiled import compiled
from benchmarks.networks import DENOISERS, Denoiser, random_params
from benchmarks.rows import Setting, Sides
from ldm_jax.nn.conditioning import Conditioning
from ldm_jax.nn.jit import jit
from ldm_jax.training.ema import ema, ramp
from ldm_jax.training.optimizers import adamw
from ldm_jax.training.state import create_state
from ldm_jax.training.step import train_step
from ldm_jax.training.task import Aux, Objective, Task

LEARNING_RATE = 1e-4
EMA_DECAY = 0.9999


def forward(setting: Setting, name: str, batch_size: int) -> Sides:
    """`UNet.apply` against diffusers' U-Net without gradients; weights in the dtype."""
    net = DENOISERS[name]
    unet, given = net.unet(setting.dtype), net.inputs(batch_size)
    host = random_params(_shapes(net, setting.dtype))
    params = jax.tree.map(lambda p: jnp.asarray(p, setting.dtype), host)
    arrays = {k: jnp.asarray(v) for k, v in given.items()}

    def apply(params, given):
        return _predict(unet, params, given)

    ours = compiled(jit(apply), params, arrays)
    return Sides(
        lambda: jax.block_until_ready(ours.call(params, arrays)),
        _forward_references(setting, net, host, given),
        batch_size,
        "images",
        ours.peak_bytes,
        ours.seconds,
    )


def step(setting: Setting, name: str, batch_size: int) -> Sides:
    """One optimizer step on given noisy latents and targets: gradient, AdamW, EMA.

    Ours is `training.step.train_step`; torch has the same loss, `torch.optim.AdamW` and
    an average by `_foreach_lerp_`, under autocast where the dtype is bfloat16.
    """
    return step_of(DENOISERS[name], setting, batch_size)


def step_of(net: Denoiser, setting: Setting, batch_size: int) -> Sides:
    """`step` of any denoiser."""
    given = net.inputs(batch_size)
    target = np.random.default_rng(1).standard_normal(given["x"].shape, np.float32)
    host = random_params(_shapes(net, setting.dtype))
    batch = {k: jnp.asarray(v) for k, v in {**given, "target": target}.items()}
    run, state = _our_step(net, setting.dtype, host)
    ours = compiled(run, state, batch)

    def call():
        nonlocal state
        state, loss = ours.call(state, batch)
        return float(loss)

    return Sides(
        call,
        _step_references(setting, net, host, given, target),
        batch_size,
        "images",
        ours.peak_bytes,
        ours.seconds,
    )


def _shapes(net: Denoiser, dtype: str) -> Any:
    given = {k: jnp.asarray(v) for k, v in net.inputs(1).items()}
    cond = Conditioning(given.get("tokens"))
    init = net.unet(dtype).init
    return jax.eval_shape(init, jax.random.key(0), given["x"], given["t"], cond)[
        "params"
    ]


def _predict(unet: Any, params: Any, given: dict[str, jax.Array]) -> jax.Array:
    cond = Conditioning(given.get("tokens"))
    return unet.apply({"params": params}, given["x"], given["t"], cond)


def _our_step(net: Denoiser, dtype: str, host: Any) -> tuple[Any, Any]:
    unet = net.unet(dtype)

    def loss(params, collections, frozen, batch, step, key):
        del collections, frozen, step, key
        predicted = _predict(unet, params["backbone"], batch)
        return jnp.mean(jnp.square(predicted - batch["target"])), Aux()

    task = Task({"denoise": Objective(("backbone",), loss)})
    optimizers = {"denoise": adamw(optax.constant_schedule(LEARNING_RATE))}
    average = ema(ramp(EMA_DECAY), ("backbone",))
    options = {"task": task, "optimizers": optimizers}
    key = jax.random.key(0)

    @functools.partial(jit, donate_argnums=0)
    def run(state, batch):
        state, metrics = train_step(state, {}, batch, **options, ema=average, key=key)
        return state, metrics["loss"]

    params = {"backbone": jax.tree.map(jnp.asarray, host)}
    return run, create_state(params, **options, ema=average)


def _network(setting: Setting, net: Denoiser, host: Any) -> Any:
    """diffusers' U-Net, float32."""
    width = None if net.tokens is None else net.tokens[1]
    unet = net.unet("float32")
    return references.unet(unet, host, net.channels, width, net.side)


def _forward_references(
    setting: Setting, net: Denoiser, host: Any, given: dict[str, np.ndarray]
) -> dict[str, Any]:
    if not setting.references:
        return {}
    import torch

    network = references.on_device(setting, _network(setting, net, host))

    def make_call(model, order):
        inputs = [references.tensor(setting, given[k], order) for k in given]

        def call():
            with torch.no_grad():
                return model(*inputs).sample

        return references.finished(setting, call)

    return references.variants(setting, network.requires_grad_(False), make_call)


def _step_references(
    setting: Setting,
    net: Denoiser,
    host: Any,
    given: dict[str, np.ndarray],
    target: np.ndarray,
) -> dict[str, Any]:
    if not setting.references:
        return {}
    import torch

    network = _network(setting, net, host).train()
    network = network.to("cuda" if setting.device == "gpu" else "cpu")
    plain = Setting(setting.device)  # autocast chooses the dtype

    def make_call(model, order):
        inputs = [references.tensor(plain, given[k], order) for k in given]
        wanted = references.tensor(plain, target, order)
        weights = list(model.parameters())
        average = [w.detach().clone() for w in weights]
        optimizer = torch.optim.AdamW(weights, LEARNING_RATE, weight_decay=0.01)
        count = 0

        def call():
            nonlocal count
            count += 1
            with torch.autocast(
                inputs[0].device.type, torch.bfloat16, setting.dtype == "bfloat16"
            ):
                predicted = model(*inputs).sample
            loss = (predicted.float() - wanted).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay = min(EMA_DECAY, (1 + count) / (10 + count))
            with torch.no_grad():
                torch._foreach_lerp_(average, weights, 1 - decay)  # pyright: ignore
            return float(loss)

        return references.finished(setting, call)

    return references.variants(setting, network, make_call)
