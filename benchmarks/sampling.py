"""Rows of sampling: noise to pictures, guidance and decoder included."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import references
from benchmarks.compiled import compiled
from benchmarks.networks import (
    DENOISERS,
    Denoiser,
    first_stage,
    random_params,
)
from benchmarks.rows import Setting, Sides
from ldm_jax.arrays import normal_like
from ldm_jax.conditioners import ClassLabel
from ldm_jax.diffusion import PREDICTIONS, SCHEDULES
from ldm_jax.guidance import Guidance
from ldm_jax.latent_diffusion import LatentDiffusion
from ldm_jax.nn.jit import jit
from ldm_jax.rng import example_keys, named_keys
from ldm_jax.sample_fn import make_sample_fn
from ldm_jax.samplers import bucket, make_levels, pad
from ldm_jax.samplers.ddim import DDIM
from ldm_jax.training import sharding

BETAS = (0.0015, 0.0195)
NUM_CLASSES = 8


@dataclasses.dataclass(frozen=True)
class Run:
    """What is drawn.

    Attributes:
      denoiser, autoencoder: names in DENOISERS and FIRST_STAGES.
      prediction: "eps" or "v".
      guidance_scale: 1 for an unconditional model; above, of the classes.
    """

    denoiser: str
    autoencoder: str
    prediction: str = "eps"
    guidance_scale: float = 1.0

    @property
    def is_guided(self) -> bool:
        """Whether there are classes."""
        return self.guidance_scale != 1.0


EMOJI = Run("emoji_f4", "emoji_kl_f4", prediction="v", guidance_scale=2.0)
FFHQ = Run("ffhq_f4", "vq_f4")
TINY = Run("tiny", "tiny", prediction="v", guidance_scale=2.0)


def ddim(setting: Setting, run: Run, batch_size: int, num_steps: int) -> Sides:
    """`sample_fn` as `Model.sample` runs it, against a loop over diffusers' modules.

    The loop has diffusers' DDIMScheduler, trailing timesteps, and the same noise; its
    pictures stay on the device, as ours do. Several devices share the batch.
    """
    net = DENOISERS[run.denoiser]
    ldm = _model(setting, run, net)
    host = _params(ldm, run, net)
    is_shared = batch_size % jax.device_count() == 0
    mesh = sharding.make_mesh(devices=None if is_shared else jax.devices()[:1])
    params = jax.tree.map(lambda p: jnp.asarray(p, setting.dtype), host)
    params = jax.device_put(params, sharding.replicated(mesh))
    keys = example_keys(jax.random.key(0), jnp.arange(batch_size))
    labels = np.arange(batch_size, dtype=np.int32) % NUM_CLASSES
    keys, ours_labels = jax.device_put((keys, labels), sharding.batch_sharding(mesh))
    levels = make_levels(ldm.schedule, num_steps, grid="trailing")
    given: dict[str, Any] = {"plan": pad(DDIM.plan(levels), bucket(num_steps))}
    if run.is_guided:
        given["guidance"] = Guidance(run.guidance_scale)
        given["conditioning"] = {"class_label": ours_labels}
    sample_fn = make_sample_fn(
        ldm, DDIM, batch_size=batch_size, latent_size=(net.side, net.side)
    )
    ours = compiled(jit(sample_fn), params, keys, **given)
    shape = (batch_size, net.side, net.side, net.channels)
    noise = np.asarray(
        normal_like(named_keys(keys, "noise")["noise"], jnp.zeros(shape))
    )
    return Sides(
        lambda: jax.block_until_ready(ours.call(params, keys, **given)),
        _references(setting, run, net, host, noise, labels, num_steps),
        batch_size,
        "images",
        ours.peak_bytes,
        ours.seconds,
    )


def _model(setting: Setting, run: Run, net: Denoiser) -> LatentDiffusion:
    unet = net.unet(setting.dtype)
    classes = ClassLabel(NUM_CLASSES, unet.embedding_dim, slot="vector")
    return LatentDiffusion(
        first_stage(run.autoencoder, setting.dtype),
        unet,
        classes if run.is_guided else None,
        SCHEDULES["linear"](1000, *BETAS),
        PREDICTIONS[run.prediction],
    )


def _params(ldm: LatentDiffusion, run: Run, net: Denoiser) -> dict[str, Any]:
    side = net.side * ldm.autoencoder.downsampling_factor
    batch = {"image": jnp.zeros((1, side, side, 3)), "class_label": jnp.zeros(1, int)}
    key = jax.random.key(0)
    shapes = jax.eval_shape(ldm.init_params, key, batch)
    stage = jax.eval_shape(ldm.autoencoder.init, key, batch["image"], key)["params"]
    return {
        **random_params(shapes),
        "autoencoder": random_params(stage, seed=1),
        "latent_scale": np.float32(1.0),
    }


def _references(
    setting: Setting,
    run: Run,
    net: Denoiser,
    host: dict[str, Any],
    noise: np.ndarray,
    labels: np.ndarray,
    num_steps: int,
) -> dict[str, Any]:
    if not setting.references:
        return {}
    stage = first_stage(run.autoencoder, "float32")
    unet = references.unet(
        net.unet("float32"), host["backbone"], net.channels, None, net.side
    )
    if run.is_guided:
        _add_classes(unet, host["conditioner"]["embedding"]["embedding"])
    side = net.side * stage.downsampling_factor
    decoder = references.autoencoder(stage, host["autoencoder"], side)
    networks = [references.on_device(setting, network) for network in (unet, decoder)]
    calls = {}
    for name in setting.references:
        # One reference at a time: both networks are compiled, or neither.
        alone = dataclasses.replace(setting, references=(name,))
        made = [
            references.variants(setting=alone, model=n, make_call=lambda m, o: (m, o))
            for n in networks
        ]
        (unet_, order), (decoder_, _) = (next(iter(m.values())) for m in made)
        x = references.tensor(setting, noise, order)
        loop = _loop(setting, run, unet_, decoder_, x, labels, num_steps)
        calls[f"torch {name}"] = references.finished(setting, loop)
    return calls


def _add_classes(unet: Any, table: np.ndarray) -> None:
    """diffusers' class embedding: a row for each class and the null class last."""
    import torch

    unet.class_embedding = torch.nn.Embedding.from_pretrained(torch.from_numpy(table))
    unet.register_to_config(num_class_embeds=len(table))


def _loop(
    setting: Setting,
    run: Run,
    unet: Any,
    decoder: Any,
    noise: Any,
    labels: np.ndarray,
    num_steps: int,
) -> Callable[[], Any]:
    import torch

    diffusers = references.import_diffusers()
    scheduler = diffusers.DDIMScheduler(
        beta_start=BETAS[0],
        beta_end=BETAS[1],
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type={"v": "v_prediction", "eps": "epsilon"}[run.prediction],
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(num_steps)
    null = np.full_like(labels, NUM_CLASSES)
    classes = references.tensor(setting, np.concatenate([null, labels]).astype(int))

    def predict(x, t):
        if not run.is_guided:
            return unet(x, t).sample
        uncond, cond = unet(torch.cat([x, x]), t, classes).sample.chunk(2)
        return uncond + run.guidance_scale * (cond - uncond)

    def call():
        x = noise
        with torch.no_grad():
            for t in scheduler.timesteps:
                x = scheduler.step(predict(x, t), t, x).prev_sample
            return decoder.decode(x).sample.clamp(-1, 1)

    return call
