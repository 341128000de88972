"""The row of training a first stage: L1, LPIPS, KL and a discriminator that takes part."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import first_stage, references
from benchmarks.compiled import compiled
from benchmarks.networks import first_stage as module_of
from benchmarks.networks import random_params
from benchmarks.rows import Setting, Sides
from benchmarks.torch_gan import Losses, discriminator, lpips
from ldm_jax.adversarial.patchgan import PatchDiscriminator
from ldm_jax.features.lpips import param_shapes
from ldm_jax.nn.jit import jit
from ldm_jax.tasks.autoencoding import (
    AdversarialLoss,
    Autoencoding,
    autoencoding_task,
)
from ldm_jax.tasks.reconstruction import ReconstructionLoss
from ldm_jax.training.optimizers import adam
from ldm_jax.training.state import create_state
from ldm_jax.training.step import train_step

LEARNING_RATE = 1e-4
KL_WEIGHT = 1e-6
NARROW_LOGVAR = -30.0  # both sides draw the same latents, whatever their noise


def training(setting: Setting, name: str, batch_size: int, side: int) -> Sides:
    """One step of generator and discriminator, each with its Adam.

    Against diffusers' AutoencoderKL, the package lpips and the same discriminator in
    torch, which derives the adaptive weight through both networks as the original does.
    """
    random = np.random.default_rng(0)
    image = random.uniform(-1, 1, (batch_size, side, side, 3)).astype(np.float32)
    module = module_of(name, setting.dtype)
    host = _params(module, side)
    run, state, frozen = _our_step(module, setting, host)
    batch = {"image": jnp.asarray(image)}
    ours = compiled(run, state, frozen, batch)

    def call():
        nonlocal state
        state, metrics = ours.call(state, frozen, batch)
        return {k: float(v) for k, v in metrics.items()}

    return Sides(
        call,
        _references(setting, name, host, image),
        batch_size,
        "images",
        ours.peak_bytes,
        ours.seconds,
    )


def _params(module: Any, side: int) -> dict[str, Any]:
    stage = random_params(first_stage.shapes(module, side))
    stage["quant_conv"]["bias"][module.embed_dim :] = NARROW_LOGVAR
    image, key = jnp.zeros((1, max(side, 24), max(side, 24), 3)), jax.random.key(0)
    init = functools.partial(
        PatchDiscriminator(num_layers=_layers(side)).init, train=False
    )
    variables = jax.eval_shape(init, key, image)
    shapes = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        param_shapes(),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    perceptual = random_params(shapes, seed=2)
    perceptual["heads"] = jax.tree.map(np.abs, perceptual["heads"])
    stats = {"mean": np.zeros, "var": np.ones}
    return {
        "autoencoder": stage,
        "discriminator": random_params(variables["params"], seed=1),
        "batch_stats": jax.tree_util.tree_map_with_path(
            lambda path, x: stats[path[-1].key](x.shape, np.float32),
            variables["batch_stats"],
        ),
        "lpips": perceptual,
    }


def _layers(side: int) -> int:
    """The published three, or fewer where the picture is too small for them."""
    return 3 if side >= 24 else 1


def _our_step(module: Any, setting: Setting, host: dict[str, Any]) -> tuple:
    num_layers = len(host["batch_stats"])
    spec = Autoencoding(
        module,
        ReconstructionLoss(perceptual_dtype=jnp.dtype(setting.dtype)),
        KL_WEIGHT,
        PatchDiscriminator(num_layers=num_layers, dtype=jnp.dtype(setting.dtype)),
        AdversarialLoss(disc_start=0),
    )
    task = autoencoding_task(spec)
    rate = optax.constant_schedule(LEARNING_RATE)
    options = {
        "task": task,
        "optimizers": {name: adam(rate) for name in task.objectives},
    }
    key = jax.random.key(0)

    @functools.partial(jit, donate_argnums=0)
    def run(state, frozen, batch):
        return train_step(state, frozen, batch, **options, ema=None, key=key)

    params = {name: host[name] for name in ("autoencoder", "discriminator")}
    params = jax.tree.map(jnp.asarray, params)
    stats = {"batch_stats": jax.tree.map(jnp.asarray, host["batch_stats"])}
    state = create_state(params, **options, collections={"discriminator": stats})
    return run, state, {"lpips": jax.tree.map(jnp.asarray, host["lpips"])}


def _references(
    setting: Setting, name: str, host: dict[str, Any], image: np.ndarray
) -> dict[str, Any]:
    if not setting.references:
        return {}
    import torch

    module = module_of(name, "float32")
    model = references.autoencoder(module, host["autoencoder"], image.shape[1]).train()
    device = "cuda" if setting.device == "gpu" else "cpu"
    plain = Setting(setting.device)

    def make_call(model, order):
        opponent = discriminator(host["discriminator"]).to(device, memory_format=order)
        perceptual = lpips(host["lpips"]).to(device, memory_format=order)
        losses = Losses(model, opponent, perceptual, KL_WEIGHT)
        x = references.tensor(plain, image, order)
        rates = {"lr": LEARNING_RATE, "betas": (0.5, 0.9)}
        generator_adam = torch.optim.Adam(model.parameters(), **rates)
        discriminator_adam = torch.optim.Adam(opponent.parameters(), **rates)

        def call():
            with torch.autocast(device, torch.bfloat16, setting.dtype == "bfloat16"):
                loss = losses.generator(x)
            model.zero_grad()
            loss.backward()
            generator_adam.step()
            with torch.autocast(device, torch.bfloat16, setting.dtype == "bfloat16"):
                disc_loss = losses.discriminator(x)
            opponent.zero_grad()
            disc_loss.backward()
            discriminator_adam.step()
            return {"loss": float(loss), "discriminator/loss": float(disc_loss)}

        return references.finished(setting, call)

    return references.variants(setting, model.to(device), make_call)
