"""A training run: its folder, state, data and hooks around the one loop."""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ldm_jax import build, trees
from ldm_jax import config as config_lib
from ldm_jax.arrays import image_grid, image_to_pixels
from ldm_jax.data.latent_cache import (
    ChooseFlip,
    LatentSource,
    cache_key,
    write_latent_cache,
)
from ldm_jax.data.pipeline import eval_batches, make_loader
from ldm_jax.data.transforms import SquareImage, WithMirror
from ldm_jax.latent_diffusion import make_sample_fn, measure_latent_scale
from ldm_jax.rng import named_key
from ldm_jax.training import checkpoints, compilation, hooks, loop, metrics, sharding
from ldm_jax.training.state import TrainState, create_state
from ldm_jax.training.step import train_step
from ldm_jax.training.throughput import Throughput, peak_flops

PyTree = Any
Batch = Mapping[str, Any]

FIELDS = ("image", "moments", "class_label")  # what a step reads; the rest stays here
NUM_PREVIEWS = 16

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
    """What the parts of a run share."""

    config: ConfigDict
    workdir: Path
    experiment: build.Experiment
    source: Any
    transform: SquareImage
    mesh: jax.sharding.Mesh
    frozen: PyTree
    key: jax.Array

    def put(self, batch: Batch) -> dict[str, jax.Array]:
        """The fields a step reads, as global arrays."""
        chosen = {name: batch[name] for name in FIELDS if name in batch}
        return sharding.put_batch(chosen, sharding.batch_sharding(self.mesh))


def train(
    config: ConfigDict, workdir: Path, *, devices: Sequence[jax.Device] | None = None
) -> None:
    """Train, or go on training, what `config` describes in `workdir`.

    Args:
      config: checked by `config.check`.
      workdir: made if missing; the newest checkpoint in it is where training goes on.
      devices: to lay the mesh over; all if None.

    Raises:
      ValueError, OSError: one sentence for whatever a user can get wrong.
    """
    compilation.enable_compilation_cache(_cache_dir())
    run = _open(config, workdir, devices)
    config_lib.save(config, workdir / "config.json")
    manager = checkpoints.open_checkpoints(
        workdir, max_to_keep=config.train.keep_checkpoints
    )
    with manager, loop.stop_on_signal() as should_stop:
        state, shardings = _initial_state(run, manager)
        first_step = int(state.step)
        writers = metrics.make_writers(workdir, first_step=first_step)
        loader = _loader(run, *_train_source(run), start_step=first_step)
        with closing(loader):
            batches = map(run.put, loader)
            first_batch = next(batches)
            step_fn = _compile_step(run, state, shardings, first_batch)
            throughput = Throughput(
                config.train.batch_size,
                flops_per_step=compilation.flops_per_step(
                    step_fn, grad_accumulation=config.train.grad_accumulation
                ),
                peak=peak_flops(jax.devices()[0]),
            )
            console = metrics.Console(
                first_step=first_step, num_steps=config.train.num_steps
            )
            state = loop.run(
                state,
                _chain(first_batch, batches),
                lambda state, batch: step_fn(state, run.frozen, batch),
                _hooks(run, manager, writers, console, throughput),
                config.train.num_steps,
                should_stop=should_stop,
            )
        if int(state.step) > 0 or config.train.num_steps == 0:
            checkpoints.save(manager, state, _meta(run, int(state.step)))
        checkpoints.wait(manager)
        for writer in (*writers, console):
            writer.close()
    _report_corrupt(run.source)


def _open(
    config: ConfigDict, workdir: Path, devices: Sequence[jax.Device] | None
) -> Run:
    """Everything that can be wrong is met here, before anything is computed."""
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices=devices)
    sharding.check_batch_size(
        config.train.batch_size, mesh, config.train.grad_accumulation
    )
    source, transform = build.data(config)
    experiment = build.experiment(config)
    frozen = jax.device_put(build.frozen(config), sharding.replicated(mesh))
    key = jax.random.key(config.train.seed)
    workdir.mkdir(parents=True, exist_ok=True)
    return Run(config, workdir, experiment, source, transform, mesh, frozen, key)


def create_fn(config: ConfigDict, experiment: build.Experiment) -> Callable:
    """`key -> TrainState` at step 0, pure."""
    optimizers = build.optimizers(config, experiment.task)
    average = build.average(config, experiment.task)

    def create(key: jax.Array) -> TrainState:
        params, collections = experiment.init(named_key(key, "init"))
        return create_state(
            params,
            task=experiment.task,
            optimizers=optimizers,
            ema=average,
            collections=collections,
        )

    return create


def step_fn(config: ConfigDict, experiment: build.Experiment, key: jax.Array):
    """`(state, frozen, batch) -> (state, metrics)`, not jitted."""
    return partial(
        train_step,
        task=experiment.task,
        optimizers=build.optimizers(config, experiment.task),
        ema=build.average(config, experiment.task),
        key=named_key(key, "train"),
        grad_accumulation=config.train.grad_accumulation,
    )


def _initial_state(run: Run, manager: Any) -> tuple[TrainState, PyTree]:
    """The newest checkpoint's state, or a fresh one, laid out on the mesh."""
    create = create_fn(run.config, run.experiment)
    shapes = jax.eval_shape(create, run.key)
    shardings = sharding.infer_shardings(shapes, run.mesh)
    if manager.latest_step() is not None:
        target = sharding.with_shardings(shapes, shardings)
        state, _ = checkpoints.restore_state(manager, target)
        logger.info("resuming %s at step %d", run.workdir, int(state.step))
        return state, shardings
    checkpoints.check_free_space(run.workdir, trees.num_bytes(shapes), 0)
    state = jax.jit(create, out_shardings=shardings)(run.key)
    if run.config.task == "denoising" and run.config.latent.scale_by_std:
        scale = _measured_scale(run)
        state = state.replace(collections={**state.collections, "latent_scale": scale})
    return state, shardings


def _measured_scale(run: Run) -> jax.Array:
    """From the first global batch of the run, the same on every layout."""
    loader = _loader(run, run.source, run.transform)

    def measure(frozen: PyTree, batch: Batch) -> jax.Array:
        key = named_key(run.key, "latent_scale")
        return measure_latent_scale(run.experiment.ldm.encode(frozen, batch, key, 1.0))

    with closing(loader):
        out = sharding.replicated(run.mesh)
        return jax.jit(measure, out_shardings=out)(run.frozen, run.put(next(loader)))


def _compile_step(run: Run, state: TrainState, shardings: PyTree, batch: Batch):
    """Ahead of time, so that its FLOPs are known and a shape can never change it."""
    jitted = jax.jit(
        step_fn(run.config, run.experiment, run.key),
        donate_argnums=0,
        out_shardings=(shardings, sharding.replicated(run.mesh)),
    )
    return jitted.lower(state, run.frozen, batch).compile()


def _loader(run: Run, source: Any, transform: Any, *, start_step: int = 0) -> Any:
    """This process's share of the batches from `start_step` on."""
    return make_loader(
        source,
        transform,
        batch_size=run.config.train.batch_size,
        seed=run.config.train.seed,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_workers=run.config.data.num_workers,
    )


def _train_source(run: Run) -> tuple[Any, Any]:
    """Pictures with their transform, or cached latents with theirs."""
    source, transform = run.source, run.transform
    if run.config.task != "denoising" or not run.config.latent.cache:
        return source, transform
    if not transform.is_cacheable:
        raise ValueError(
            "config.latent.cache needs one square per picture: set "
            "--config.data.crop=center or --config.latent.cache=False"
        )
    encoder, plain = run.experiment.autoencoder, transform.for_evaluation()
    key = cache_key(
        first_stage=_hash(run.frozen["autoencoder"]),
        autoencoder=repr(encoder),
        source=source.fingerprint(),
        transform=repr(plain),
    )
    batch_size = run.config.train.batch_size
    encode = jax.jit(
        lambda params, image: (
            encoder.apply({"params": params}, image, method="encode").moments
        )
    )

    def moments() -> Iterator[dict[str, np.ndarray]]:
        pairs = eval_batches(source, WithMirror(plain), batch_size=batch_size)
        for batch in pairs:
            both = [
                np.asarray(encode(run.frozen["autoencoder"], batch["image"][:, i]))
                for i in range(2)
            ]
            yield {"moments": np.stack(both, axis=1), "index": batch["index"]}

    folder = run.workdir / "latents"
    cache = write_latent_cache(folder, key, moments(), length=len(source))
    return LatentSource(cache, source), ChooseFlip(run.config.data.flip_rate)


def _hooks(run: Run, manager, writers, console, throughput) -> list[loop.Hook]:
    """Evaluation, logs, previews and checkpoints, in the order they are called."""
    train_config, last = run.config.train, run.config.train.num_steps
    validation = _validation_batches(run)
    evaluate = partial(_evaluate, run, jax.jit(run.experiment.evaluate), validation)

    def write_validation(step: int, state: TrainState, _: Any) -> None:
        scalars = evaluate(state)
        for writer in (*writers, console):
            writer.write_scalars(step, scalars)

    def save(step: int, state: TrainState, step_metrics: Any) -> None:
        hook = hooks.save_checkpoint(manager, _meta(run, step))
        hook(step, state, step_metrics)

    draw = _draw_fn(run)
    preview = hooks.preview(draw, run.workdir / "previews", writers)
    beside = partial(hooks.untimed, throughput)
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
        hooks.every(train_config.preview_every, beside(preview), last_step=last),
        hooks.every(train_config.checkpoint_every, beside(save)),
    ]


def _validation_batches(run: Run) -> Callable[[], Iterator[Batch]]:
    """Every call gives the same pictures in the same order."""
    source, transform = build.data(run.config, split="val")
    batch_size = run.config.train.batch_size
    num_batches = -(-run.config.data.num_validation // batch_size)

    def batches() -> Iterator[Batch]:
        whole = eval_batches(source, transform.for_evaluation(), batch_size=batch_size)
        with closing(whole):
            yield from islice(whole, num_batches)

    return batches


def _evaluate(run: Run, evaluate_fn, batches, state: TrainState) -> dict[str, float]:
    """Means over the validation pictures, `val/...`, and with EMA weights `..._ema`."""
    scalars = {}
    for suffix, params in _weights(state):
        totals: dict[str, float] = {}
        count = 0.0
        for index, batch in enumerate(batches()):
            mask = batch["mask"]
            key = jax.random.fold_in(named_key(run.key, "validation"), index)
            values = evaluate_fn(
                params, state.collections, run.frozen, run.put(batch), key
            )
            for name, value in jax.device_get(values).items():
                total = (np.broadcast_to(value, mask.shape) * mask).sum()
                totals[name] = totals.get(name, 0.0) + float(total)
            count += float(mask.sum())
        if count:
            scalars |= {f"val/{n}{suffix}": v / count for n, v in totals.items()}
    return scalars


def _weights(state: TrainState) -> list[tuple[str, PyTree]]:
    if state.ema is None:
        return [("", state.params)]
    return [("", state.params), ("_ema", {**state.params, **state.ema})]


def _draw_fn(run: Run) -> Callable[[int, TrainState], np.ndarray]:
    """Rows of inputs and reconstructions and, for a denoiser, of EMA samples."""
    batch = next(_validation_batches(run)())
    num = min(NUM_PREVIEWS, len(batch["image"]))
    batch = {name: batch[name][:num] for name in FIELDS if name in batch}
    module, ldm = run.experiment.autoencoder, run.experiment.ldm
    reconstruct = jax.jit(partial(build.reconstruct, module))
    sample = None if ldm is None else jax.jit(_sample_fn(run, batch))

    def draw(step: int, state: TrainState) -> np.ndarray:
        params = _weights(state)[-1][1]
        first_stage = {**run.frozen, **params}["autoencoder"]
        rows = [batch["image"], reconstruct(first_stage, batch["image"])]
        if sample is not None:
            rows.append(sample(params, state.collections, run.frozen, batch))
        pixels = np.concatenate([np.asarray(image_to_pixels(row)) for row in rows])
        return image_grid(pixels, columns=num)

    return draw


def _sample_fn(run: Run, batch: Batch) -> Callable[..., jax.Array]:
    config, ldm = run.config, run.experiment.ldm
    _, h, w, _ = ldm.latent_shape(batch)
    draw = make_sample_fn(
        ldm,
        build.sampler(config.sampler, ldm),
        batch_size=len(batch["image"]),
        latent_size=(h, w),
    )
    scale = config.sampler.guidance_scale
    guidance = None if scale == 1.0 or ldm.conditioner is None else scale
    key = named_key(run.key, "preview")

    def sample(params, collections, frozen, batch):
        latent_scale = collections["latent_scale"]
        return draw(params, frozen, latent_scale, key, batch, guidance)

    return sample


def _meta(run: Run, step: int) -> dict[str, Any]:
    """What a checkpoint says of itself; the data's position follows from the step."""
    return {
        "data_position": step * run.config.train.batch_size,
        "seed": run.config.train.seed,
        "class_names": list(run.source.class_names),
    }


def _chain(first: Batch, rest: Iterator[Batch]) -> Iterator[Batch]:
    yield first
    yield from rest


def _hash(tree: PyTree) -> str:
    digest = hashlib.sha256()
    for name, leaf in trees.flatten(tree).items():
        digest.update(name.encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _cache_dir() -> Path:
    return Path.home() / ".cache" / "ldm_jax" / "compiled"


def _report_corrupt(source: Any) -> None:
    if source.corrupt:
        names = ", ".join(sorted(source.corrupt)[:10])
        logger.warning(
            "%d unreadable picture(s) skipped: %s", len(source.corrupt), names
        )
