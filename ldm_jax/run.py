"""A training run: its folder, state, data and hooks around the one loop."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ldm_jax import (
    build,
    build_conditioner,
    build_data,
    caption_vocabulary,
    pretrained,
    trees,
)
from ldm_jax import config as config_lib
from ldm_jax.evaluating import during_training
from ldm_jax.features.search import cache_dir
from ldm_jax.latent_diffusion import measure_latent_scale
from ldm_jax.nn.jit import jit
from ldm_jax.recording import make_recorder
from ldm_jax.rng import named_key
from ldm_jax.run_data import Batch, Run, loader, train_source
from ldm_jax.run_hooks import checkpoint_meta, make_hooks
from ldm_jax.run_step import create_fn, jit_step, laid_out_tally, step_fn
from ldm_jax.training import (
    checkpoints,
    compilation,
    distributed,
    flight_recorder,
    loop,
    metrics,
    sharding,
    warm_start,
    workdir_lock,
)
from ldm_jax.training.guarded_step import GuardedStep, Tally
from ldm_jax.training.recent_batches import RecentBatches
from ldm_jax.training.state import TrainState
from ldm_jax.training.throughput import Throughput, peak_flops

__all__ = ["create_fn", "jit_step", "step_fn", "train"]

PyTree = Any

logger = logging.getLogger(__name__)


def train(
    config: ConfigDict, workdir: Path, *, devices: Sequence[Any] | None = None
) -> None:
    """Train, or go on training, what `config` describes in `workdir`.

    Args:
      config: checked by `config.check`.
      workdir: made if missing; the newest checkpoint in it is where training goes on.
      devices: to lay the mesh over; all if None.

    Raises:
      ValueError, OSError: one sentence for whatever a user can get wrong.
    """
    with distributed.on_first_process(workdir_lock.hold(workdir)):
        _train_alone(config, workdir, devices)


def _train_alone(
    config: ConfigDict, workdir: Path, devices: Sequence[Any] | None
) -> None:
    """As the only run in the folder."""
    compilation.enable_compilation_cache(cache_dir() / "compiled")
    run = _open(config, workdir, devices)
    manager = checkpoints.open_checkpoints(
        workdir, max_to_keep=config.train.keep_checkpoints
    )
    with (
        manager,
        distributed.no_waiting_for_the_lost(),
        loop.stop_on_signal() as should_stop,
    ):
        state, shardings = _initial_state(run, manager)
        # Only now: a config that does not fit the checkpoint must not replace its own.
        if jax.process_index() == 0:
            config_lib.save(config, workdir / "config.json")
        if int(state.step) < config.train.num_steps:
            state = _train(run, state, shardings, manager, should_stop)
        else:
            logger.info("%s is at step %d already", workdir, int(state.step))
        checkpoints.save(manager, state, checkpoint_meta(run, int(state.step)))
        checkpoints.wait(manager)
    if int(state.step) < config.train.num_steps:
        logger.info(
            "stopped at step %d and saved; the same command goes on from there",
            int(state.step),
        )
    _report_corrupt(run.source)


def _train(
    run: Run,
    state: TrainState,
    shardings: PyTree,
    manager: checkpoints.Manager,
    should_stop: Callable[[int], bool],
) -> TrainState:
    """From `state.step` to `num_steps`, or until a signal."""
    first_step, config = int(state.step), run.config.train
    writers = metrics.make_writers(run.workdir, first_step=first_step)
    console = metrics.Console(first_step=first_step, num_steps=config.num_steps)
    recorder = make_recorder(run)
    batches = RecentBatches(
        loader(run, *train_source(run), start_step=first_step), first_step=first_step
    )
    with closing(batches), closing_all(*writers, console):
        first_batch = run.put(next(batches))
        batches.rewind(first_step)
        tally = laid_out_tally(run.mesh, recorder.num_skipped(first_step))
        step = _compile_step(run, state, shardings, first_batch, tally)
        throughput = Throughput(
            config.batch_size,
            flops_per_step=compilation.flops_per_step(
                step, grad_accumulation=config.grad_accumulation
            ),
            peak=peak_flops(jax.devices()[0]),
        )
        guarded = GuardedStep(
            *(step, run.frozen, tally),
            first_step=first_step,
            shows_skipped=recorder.policy == "skip",
        )
        return flight_recorder.run(
            *(state, batches, run.put, guarded),
            make_hooks(run, manager, writers, console, throughput),
            config.num_steps,
            recorder,
            should_stop=should_stop,
        )


def _open(config: ConfigDict, workdir: Path, devices: Sequence[Any] | None) -> Run:
    """Everything that can be wrong is met here, before anything is computed."""
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices=devices)
    sharding.check_batch_size(
        config.train.batch_size, mesh, config.train.grad_accumulation
    )
    during_training.check(config)
    source = build_data.source(config, workdir)
    validation = build_data.source(config, workdir, "val")
    experiment = build.experiment(config, workdir)
    conditioner = experiment.ldm.conditioner if experiment.ldm else None
    for pictures in (source, validation):
        build_conditioner.check_source(config, conditioner, pictures)
    frozen = jax.device_put(
        pretrained.frozen(config, workdir), sharding.replicated(mesh)
    )
    key = jax.random.key(config.train.seed)
    workdir.mkdir(parents=True, exist_ok=True)
    caption_vocabulary.prepare(config, source, workdir)
    transform, validation_transform = (
        build_data.transform(config, conditioner, pictures, workdir)
        for pictures in (source, validation)
    )
    return Run(
        config=config,
        workdir=workdir,
        experiment=experiment,
        source=source,
        transform=transform,
        validation=validation,
        validation_transform=validation_transform.for_evaluation(),
        mesh=mesh,
        frozen=frozen,
        key=key,
    )


def _initial_state(run: Run, manager: Any) -> tuple[TrainState, PyTree]:
    """The newest intact checkpoint's state, or a fresh one, laid out on the mesh."""
    create = create_fn(run.config, run.experiment)
    shapes = jax.eval_shape(create, run.key)
    shardings = sharding.infer_shardings(shapes, run.mesh)
    target = sharding.with_shardings(shapes, shardings)
    step = manager.newest_intact()
    if step is not None and warm_start.has_optimizer_state(run.workdir, step):
        state, _ = checkpoints.restore_state(manager, target)
        logger.info("resuming %s at step %d", run.workdir, int(state.step))
        return state, shardings
    checkpoints.check_free_space(run.workdir, trees.num_bytes(shapes), step or 0)
    if step is not None:
        stored = warm_start.read(target, run.workdir, step)
        start = jax.jit(
            lambda key, stored: warm_start.filled(create(key), stored, step),
            out_shardings=shardings,
        )
        logger.info("training goes on from the parameters of step %d", step)
        return start(run.key, stored), shardings
    given = _pretrained_groups(run, shapes)
    state = jax.jit(create, out_shardings=shardings)(run.key)
    state = _with_groups(state, given, shardings)
    if run.config.task == "denoising" and run.config.latent.scale_by_std:
        scale = _measured_scale(run)
        state = state.replace(collections={**state.collections, "latent_scale": scale})
    return state, shardings


def _pretrained_groups(run: Run, shapes: TrainState) -> dict[str, PyTree]:
    """Parameters of groups that do not start from scratch."""
    if run.config.task != "denoising":
        return {}
    conditioner = pretrained.conditioner(
        run.config, shapes.params.get("conditioner"), run.workdir
    )
    return {} if conditioner is None else {"conditioner": conditioner}


def _with_groups(
    state: TrainState, groups: dict[str, PyTree], shardings: PyTree
) -> TrainState:
    """The state with these groups of parameters, and of their averages, put in."""

    def replaced(tree: dict[str, PyTree] | None, where: PyTree) -> Any:
        if tree is None:
            return None
        chosen = {name: value for name, value in groups.items() if name in tree}
        return {**tree, **{n: jax.device_put(v, where[n]) for n, v in chosen.items()}}

    return state.replace(
        params=replaced(state.params, shardings.params),
        ema=replaced(state.ema, shardings.ema),
    )


def _measured_scale(run: Run) -> jax.Array:
    """From the first global batch of the run, the same on every layout."""
    batches = loader(run, run.source, run.transform)

    def measure(frozen: PyTree, batch: Batch) -> jax.Array:
        key = named_key(run.key, "latent_scale")
        return measure_latent_scale(run.experiment.ldm.encode(frozen, batch, key, 1.0))

    with closing(batches):
        out = sharding.replicated(run.mesh)
        return jit(measure, out_shardings=out)(run.frozen, run.put(next(batches)))


def _compile_step(
    run: Run, state: TrainState, shardings: PyTree, batch: Batch, tally: Tally
):
    """Ahead of time, so that its FLOPs are known and a shape can never change it."""
    jitted = jit_step(run.config, run.experiment, run.key, shardings, run.mesh)
    compiled = jitted.lower(state, run.frozen, batch, tally).compile()
    distributed.wait_for_all("the step is compiled")
    return compiled


@contextmanager
def closing_all(*resources: Any) -> Iterator[None]:
    """Close every one of `resources` at the end, in order."""
    with ExitStack() as stack:
        for resource in reversed(resources):
            stack.callback(resource.close)
        yield


def _report_corrupt(source: Any) -> None:
    if source.corrupt:
        names = ", ".join(sorted(source.corrupt)[:10])
        logger.warning(
            "%d unreadable picture(s) skipped: %s", len(source.corrupt), names
        )
