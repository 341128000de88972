"""The toy task in one or several processes, as a script that tests start and kill.

python toy_processes.py WORKDIR NUM_STEPS FSDP [AT_STEP SIGNAL PROCESS] [--flags as train.py]

At AT_STEP, process PROCESS sends itself SIGNAL.
"""

import json
import sys
import time
from pathlib import Path

import jax

from ldm_jax.config import report
from ldm_jax.training import (
    checkpoints,
    distributed,
    hooks,
    loop,
    sharding,
    workdir_lock,
)
from ldm_jax.training.metrics import make_writers
from ldm_jax.training.throughput import Throughput

sharding.MIN_FSDP_ELEMENTS = 2**10


def train(workdir: Path, num_steps: int, fsdp: int, *extra: loop.Hook) -> None:
    """As ldm_jax.run trains, in miniature."""
    import toy  # computes as it is imported, so not before processes have joined

    mesh = sharding.make_mesh(-1, fsdp)
    target, shardings = toy.layout(mesh)
    with (
        distributed.on_first_process(workdir_lock.hold(workdir)),
        checkpoints.open_checkpoints(workdir) as manager,
        distributed.no_waiting_for_the_lost(),
        loop.stop_on_signal() as should_stop,
    ):
        if manager.latest_step() is None:
            state = jax.jit(toy.create, out_shardings=shardings)()
        else:
            state, _ = checkpoints.restore_state(manager, target)
        first_step = int(state.step)
        writers = make_writers(workdir, first_step=first_step)[:1]
        place = sharding.batch_sharding(mesh)
        rows = sharding.process_rows(place, toy.BATCH_SIZE)
        data = (
            sharding.put_batch({k: v[rows] for k, v in batch.items()}, place)
            for batch in toy.host_batches(first_step)
        )
        log = hooks.log(writers, Throughput(toy.BATCH_SIZE))
        save = hooks.every(toy.CHECKPOINT_EVERY, hooks.save_checkpoint(manager))
        step_fn = toy.sharded_step_fn(mesh, shardings)
        state = loop.run(
            state,
            data,
            step_fn,
            [log, save, *extra],
            num_steps,
            should_stop=should_stop,
        )
        checkpoints.save(manager, state, {})
        checkpoints.wait(manager)
    print(json.dumps({"step": int(state.step), "time": time.time()}))


def flag(name: str) -> str | None:
    """The value of `--name=value`, if given."""
    found = [x.partition("=")[2] for x in sys.argv if x.startswith(f"--{name}=")]
    return found[0] if found else None


def main() -> None:
    """Join the other processes, if flags or the environment say so, and train."""
    workdir, num_steps, fsdp, *rest = (x for x in sys.argv[1:] if "--" not in x)
    count, index = flag("num_processes"), flag("process_id")
    with distributed.processes(
        flag("coordinator_address"),
        int(count) if count else None,
        int(index) if index else None,
        peer_timeout=int(flag("peer_timeout") or 20),
        start_timeout=60,
        report=report,
    ):
        import toy

        extra = []
        if rest:
            at_step, signum, process = map(int, rest)
            if jax.process_index() == process:
                extra = [toy.send_signal(at_step, signum)]
        train(Path(workdir), int(num_steps), int(fsdp), *extra)


if __name__ == "__main__":
    main()
