"""Train a first stage or a latent diffusion model: the same command for both.

python train.py --config=configs/autoencoder/kl_f8.py --workdir=runs/kl_f8 \
    --config.data.source=folder:/path/to/images
python train.py --config=configs/ffhq_f4.py --workdir=runs/ffhq \
    --config.data.source=folder:/path/to/images --config.autoencoder.checkpoint=runs/vq_f4

The same command again resumes where the run stopped. --dry_run trains nothing: it prints
the resolved config, the parameter table, FLOPs, memory and shardings.

Several processes train together when the command is started once for each of them: under
SLURM, OpenMPI, on a Cloud TPU pod or as an indexed Kubernetes job they find each other,
elsewhere by --coordinator_address, --num_processes and --process_id (docs/launching.md).

Exit codes: 0 done or stopped by SIGTERM or Ctrl-C, 2 a mistake to mend, anything else:
start it again (3 if another process was lost).
"""

from pathlib import Path

from absl import flags

from ldm_jax import config as config_lib

CONFIG = config_lib.define_config_flag()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: made if missing.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the plan of the run and stop.")
COORDINATOR_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0, of several."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many, all together.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which this is, from 0 on.")
PEER_TIMEOUT = flags.DEFINE_integer(
    "peer_timeout", 100, "Seconds after which a silent process counts as lost.", 1
)


def main() -> None:
    # After the flags, so that --help and a mistyped flag answer at once.
    from ldm_jax import plan, run
    from ldm_jax.training import distributed

    config = CONFIG.value
    config_lib.check(config)
    if DRY_RUN.value:
        print(plan.describe(config))
        return
    if not WORKDIR.value:
        raise ValueError("--workdir is missing: give the folder where the run is kept")
    with distributed.processes(
        COORDINATOR_ADDRESS.value,
        NUM_PROCESSES.value,
        PROCESS_ID.value,
        peer_timeout=PEER_TIMEOUT.value,
        report=config_lib.report,
    ):
        run.train(config, Path(WORKDIR.value))


if __name__ == "__main__":
    config_lib.run_cli(main, required=("config",))
