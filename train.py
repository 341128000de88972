"""Train a first stage or a latent diffusion model: the same command for both.

python train.py --config=configs/autoencoder/kl_f8.py --workdir=runs/kl_f8 \
    --config.data.source=folder:/path/to/images
python train.py --config=configs/ffhq_f4.py --workdir=runs/ffhq \
    --config.data.source=folder:/path/to/images --config.autoencoder.checkpoint=runs/vq_f4

The same command again resumes where the run stopped. --dry_run trains nothing: it prints
the resolved config, the parameter table, FLOPs, memory and shardings.
"""

from pathlib import Path

from absl import flags

from ldm_jax import config as config_lib

CONFIG = config_lib.define_config_flag()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: made if missing.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the plan of the run and stop.")


def main() -> None:
    # After the flags, so that --help and a mistyped flag answer at once.
    from ldm_jax import plan, run

    config = CONFIG.value
    config_lib.check(config)
    if DRY_RUN.value:
        print(plan.describe(config))
        return
    if not WORKDIR.value:
        raise ValueError("--workdir is missing: give the folder where the run is kept")
    run.train(config, Path(WORKDIR.value))


if __name__ == "__main__":
    config_lib.run_cli(main, required=("config",))
