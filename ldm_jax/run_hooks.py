"""What a run shows while it trains: metrics, validation, previews, checkpoints."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import build
from ldm_jax.arrays import image_grid, image_to_pixels
from ldm_jax.condition_pictures import condition_pictures
from ldm_jax.evaluating import during_training
from ldm_jax.nn.jit import jit
from ldm_jax.rng import named_key
from ldm_jax.run_data import Batch, Run, validation_batches
from ldm_jax.sample_fn import make_sample_fn
from ldm_jax.training import checkpoints, hooks, loop, sharding
from ldm_jax.training.metrics import Console, Writer
from ldm_jax.training.state import TrainState
from ldm_jax.training.throughput import Throughput

PyTree = Any

NUM_PREVIEWS = 16


def make_hooks(
    run: Run,
    manager: checkpoints.Manager,
    writers: Sequence[Writer],
    console: Console,
    throughput: Throughput,
) -> list[loop.Hook]:
    """Evaluation, logs, previews and checkpoints, in the order they are called."""
    train_config, last = run.config.train, run.config.train.num_steps
    validation = validation_batches(run)
    evaluate = partial(_evaluate, run, _totals_fn(run), validation)

    def write_validation(step: int, state: TrainState, _: Any) -> None:
        scalars = evaluate(state)
        for writer in (*writers, console):
            writer.write_scalars(step, scalars)

    def save(step: int, state: TrainState, step_metrics: Any) -> None:
        hook = hooks.save_checkpoint(manager, checkpoint_meta(run, step))
        hook(step, state, step_metrics)

    draw = _draw_fn(run)
    preview = hooks.preview(draw, run.workdir / "previews", writers)
    measure = during_training.measure_hook(run, (*writers, console))
    curves = during_training.curves_hook(run, writers)

    def beside(hook: loop.Hook) -> loop.Hook:
        return hooks.untimed(throughput, hooks.unless_disk_full(hook))

    return [
        hooks.progress(console, throughput),
        hooks.every(
            train_config.log_every,
            hooks.log((*writers, console), throughput),
            last_step=last,
        ),
        hooks.every(
            train_config.evaluate_every, beside(write_validation), last_step=last
        ),
        hooks.every(during_training.every(run.config), beside(measure), last_step=last),
        hooks.every(train_config.evaluate_every, beside(curves), last_step=last),
        hooks.every(train_config.preview_every, beside(preview), last_step=last),
        hooks.every(train_config.checkpoint_every, beside(save)),
    ]


def _totals_fn(run: Run) -> Callable:
    """Sums of every metric over the rows that count, and how many these are."""

    def totals(params, collections, frozen, batch, key):
        mask = batch["mask"]
        values = run.experiment.evaluate(params, collections, frozen, batch, key)
        sums = {name: jnp.sum(value * mask) for name, value in values.items()}
        return sums, jnp.sum(mask)

    return jit(
        sharding.on_mesh(totals, run.mesh), out_shardings=sharding.replicated(run.mesh)
    )


def _evaluate(run: Run, totals_fn, batches, state: TrainState) -> dict[str, float]:
    """Means over the validation pictures, `val/...`, and with EMA weights `..._ema`."""
    scalars = {}
    for suffix, params in _weights(state):
        totals: dict[str, float] = {}
        count = 0.0
        for index, batch in enumerate(batches()):
            key = jax.random.fold_in(named_key(run.key, "validation"), index)
            sums, num_rows = totals_fn(
                params, state.collections, run.frozen, run.put_whole(batch), key
            )
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + float(value)
            count += float(num_rows)
        if count:
            scalars |= {f"val/{n}{suffix}": v / count for n, v in totals.items()}
    return scalars


def _weights(state: TrainState) -> list[tuple[str, PyTree]]:
    if state.ema is None:
        return [("", state.params)]
    return [("", state.params), ("_ema", {**state.params, **state.ema})]


def _draw_fn(run: Run) -> Callable[[int, TrainState], np.ndarray]:
    """Rows of inputs and reconstructions; for a denoiser, of its conditions where these
    can be seen, and of EMA samples under them.
    """
    batch = next(validation_batches(run)())
    num = min(NUM_PREVIEWS, len(batch["image"]))
    batch = {name: value[:num] for name, value in run.computed(batch).items()}
    module, ldm = run.experiment.autoencoder, run.experiment.ldm
    # Whole on every device, for each process fetches them all.
    on_mesh = partial(sharding.on_mesh, mesh=run.mesh)
    compiled = partial(jit, out_shardings=sharding.replicated(run.mesh))
    reconstruct = compiled(on_mesh(partial(build.reconstruct, module)))
    sample = None if ldm is None else compiled(on_mesh(_sample_fn(run, batch)))
    seen = condition_pictures(run.config, batch, run.source.class_names)

    def draw(step: int, state: TrainState) -> np.ndarray:
        params = _weights(state)[-1][1]
        first_stage = {**run.frozen, **params}["autoencoder"]
        rows = [batch["image"], reconstruct(first_stage, batch["image"])]
        conditions = [] if seen is None else [seen]
        if sample is not None:
            rows.append(sample(params, state.collections, run.frozen, batch))
        rows = [np.asarray(image_to_pixels(np.asarray(row))) for row in rows]
        pixels = np.concatenate([*rows[:2], *conditions, *rows[2:]])
        return image_grid(pixels, columns=num)

    return draw


def _sample_fn(run: Run, batch: Batch) -> Callable[..., jax.Array]:
    config, ldm = run.config, run.experiment.ldm
    _, h, w, _ = ldm.latent_shape(batch)
    draw = make_sample_fn(
        ldm,
        build.sampler(config.sampler),
        batch_size=len(batch["image"]),
        latent_size=(h, w),
    )
    plan = build.sampling_plan(config.sampler, ldm.schedule)
    guidance = None if ldm.conditioner is None else build.guidance(config.sampler)
    key = named_key(run.key, "preview")

    def sample(params, collections, frozen, batch):
        weights = {**frozen, **params, "latent_scale": collections["latent_scale"]}
        return draw(weights, key, plan, batch, guidance=guidance)

    return sample


def checkpoint_meta(run: Run, step: int) -> dict[str, Any]:
    """What a checkpoint says of itself; the data's position follows from the step."""
    return {
        "data_position": step * run.config.train.batch_size,
        "seed": run.config.train.seed,
        "class_names": list(run.source.class_names),
    }
