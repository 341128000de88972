"""A toy task with everything a real one has: two objectives, statistics, an EMA, noise.

A generator learns a linear map; a critic with BatchNorm learns to score its outputs. Run
as a script, it trains in a folder and resumes what it finds there.
"""

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.rng import named_key
from ldm_jax.training import checkpoints, hooks, sharding
from ldm_jax.training.ema import ema, ramp
from ldm_jax.training.loop import Hook, run, stop_on_signal
from ldm_jax.training.metrics import JsonlWriter
from ldm_jax.training.optimizers import adam, adamw
from ldm_jax.training.state import TrainState, create_state
from ldm_jax.training.step import train_step
from ldm_jax.training.task import Aux, Objective, Task
from ldm_jax.training.throughput import Throughput

BATCH_SIZE, WIDTH, CHECKPOINT_EVERY = 16, 128, 4
KEY = jax.random.key(0)
TARGET = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)


class Generator(nn.Module):
    """[b 4] -> [b 2] through a layer wide enough for fsdp to split."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(WIDTH, name="wide")(x)
        x = nn.Dense(WIDTH, name="square")(nn.gelu(x))
        return nn.Dense(2, name="out")(x)


class Critic(nn.Module):
    """[b 2] -> [b 1] with batch statistics."""

    @nn.compact
    def __call__(self, y):
        y = nn.BatchNorm(use_running_average=False, momentum=0.9, name="norm")(y)
        return nn.Dense(1, name="score")(y)


def generator_loss(params, collections, frozen, batch, step, key):
    """Squared error with a little noise on the target."""
    y = Generator().apply({"params": params["generator"]}, batch["x"])
    noise = jax.random.normal(named_key(key, "noise"), y.shape)
    error = jnp.mean((y - batch["y"] - frozen["noise_scale"] * noise) ** 2)
    return error, Aux({"error": error})


def critic_loss(params, collections, frozen, batch, step, key):
    """Regress the score of the generator's output on the first target coordinate."""
    y = Generator().apply({"params": params["generator"]}, batch["x"])
    variables = {"params": params["critic"], **collections["critic"]}
    score, changed = Critic().apply(variables, y, mutable=["batch_stats"])
    loss = jnp.mean((score[:, 0] - batch["y"][:, 0]) ** 2)
    return loss, Aux({}, {"critic": changed})


TASK = Task(
    {
        "generator": Objective(("generator",), generator_loss),
        "critic": Objective(("critic",), critic_loss),
    }
)
OPTIMIZERS = {"generator": adamw(1e-2), "critic": adam(1e-2)}
EMA = ema(ramp(0.9999), ("generator",))
FROZEN = {"noise_scale": jnp.float32(0.01)}


def create() -> TrainState:
    """The state at step 0."""
    critic = Critic().init(named_key(KEY, "critic"), jnp.zeros((2, 2)))
    params = {
        "generator": Generator().init(KEY, jnp.zeros((1, 4)))["params"],
        "critic": critic["params"],
    }
    collections = {"critic": {"batch_stats": critic["batch_stats"]}}
    return create_state(
        params, task=TASK, optimizers=OPTIMIZERS, ema=EMA, collections=collections
    )


new_state = jax.jit(create)


def tiny_state(step: int = 0) -> TrainState:
    """Two parameters and a counter, for what does not look inside."""
    params = {"generator": {"w": jnp.zeros(2)}}
    return TrainState(jnp.int32(step), params, None, {}, {})


def host_batch(step: int) -> dict[str, np.ndarray]:
    """The batch of a step, a pure function of it."""
    x = np.random.default_rng(step).normal(size=(BATCH_SIZE, 4)).astype(np.float32)
    return {"x": x, "y": np.tanh(x @ TARGET)}


def host_batches(first_step: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of steps `first_step + 1`, ..."""
    while True:
        first_step += 1
        yield host_batch(first_step)


step_fn = functools.partial(
    train_step, task=TASK, optimizers=OPTIMIZERS, ema=EMA, key=KEY
)


def layout(mesh) -> tuple[TrainState, TrainState]:
    """(shapes with shardings, shardings) of the state on a mesh."""
    shapes = jax.eval_shape(create)
    shardings = sharding.infer_shardings(shapes, mesh)
    return sharding.with_shardings(shapes, shardings), shardings


def sharded_step_fn(mesh, shardings, **kwargs):
    """The jitted step: donated state, laid out as it came."""
    jitted = jax.jit(
        functools.partial(step_fn, **kwargs),
        donate_argnums=0,
        out_shardings=(shardings, sharding.replicated(mesh)),
    )
    frozen = jax.device_put(FROZEN, sharding.replicated(mesh))
    return lambda state, batch: jitted(state, frozen, batch)


def send_signal(at_step: int, signum: int) -> Hook:
    """Send this process a signal after a step, as an operator or the kernel would."""
    kill = lambda step, state, metrics: step == at_step and os.kill(os.getpid(), signum)
    return kill


def train(workdir: Path, num_steps: int, *extra_hooks: Hook) -> TrainState:
    """Train in `workdir`, resuming from its newest checkpoint."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    target, shardings = layout(mesh)
    with checkpoints.open_checkpoints(workdir) as manager, stop_on_signal() as stop:
        if manager.latest_step() is None:
            state = jax.jit(create, out_shardings=shardings)()
        else:
            state, _ = checkpoints.restore_state(manager, target)
        first_step = int(state.step)
        throughput = Throughput(BATCH_SIZE)
        writer = JsonlWriter(workdir / "metrics.jsonl", first_step=first_step)
        save = hooks.save_checkpoint(manager, {"data": "a function of the step"})
        place = sharding.batch_sharding(mesh)
        data = (sharding.put_batch(b, place) for b in host_batches(first_step))
        state = run(
            state,
            data,
            sharded_step_fn(mesh, shardings),
            [
                hooks.log([writer], throughput),
                hooks.every(CHECKPOINT_EVERY, save),
                *extra_hooks,
            ],
            num_steps,
            should_stop=stop,
        )
        checkpoints.save(manager, state, {})
        checkpoints.wait(manager)
    return state


if __name__ == "__main__":
    folder, last_step, at_step, signal_number = sys.argv[1:]
    train(Path(folder), int(last_step), send_signal(int(at_step), int(signal_number)))
