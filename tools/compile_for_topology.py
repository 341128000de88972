"""Compile a config's real programs for a TPU slice, without the slice.

    python tools/compile_for_topology.py --config=configs/ffhq_f4.py --topology=v5e:4x4 \
        --config.train.precision=bfloat16 --batch_per_device=16 [--config.mesh.fsdp=16]

Prints memory, FLOPs, exchanges and XLA's estimate of the time, all of one device. Needs
libtpu (`pip install "jax[tpu]"`) but no TPU; --topology=cpu:8 needs neither. Exits with 1
if the program does not fit, after saying what would: fsdp, remat and smaller batches are
compiled in turn until one fits.
"""

import json
import os
import sys
from pathlib import Path

from absl import flags

from ldm_jax import config as config_lib

CONFIG = config_lib.define_config_flag()
TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Chips along each axis, such as v5e:4x4 or v5p:2x2x2; or cpu:8."
)
BATCH_PER_DEVICE = flags.DEFINE_integer(
    "batch_per_device",
    None,
    "Pictures a device; config.train.batch_size over all devices if left out.",
    lower_bound=1,
)
PROGRAM = flags.DEFINE_enum(
    "program", "train", ["train", "sample"], "The optimizer step, or the sampler."
)
CACHED_LATENTS = flags.DEFINE_bool(
    "cached_latents", None, "Train on cached latents; config.latent.cache if left out."
)
MAX_TRIES = flags.DEFINE_integer(
    "max_tries", 4, "Compilations at most to find what fits.", lower_bound=0
)
JSON = flags.DEFINE_string(
    "json", "", "Also write the numbers to this file; - prints them."
)


def main() -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported
    from ldm_jax.compiling import fitting
    from ldm_jax.compiling.description import describe
    from ldm_jax.compiling.programs import program
    from ldm_jax.compiling.report import compile_program
    from ldm_jax.compiling.topology import open_topology

    config = CONFIG.value
    topology = open_topology(TOPOLOGY.value or "")
    if BATCH_PER_DEVICE.value:
        rows = BATCH_PER_DEVICE.value * len(topology.devices)
        config.train.batch_size = rows * config.train.grad_accumulation
    config_lib.check(config)

    def compile_with(config):
        traced = program(
            PROGRAM.value, config, topology.devices, latents=_latents(config)
        )
        return compile_program(traced, topology)

    report = compile_with(config)
    numbers = report.as_dict()
    if JSON.value != "-":
        print(describe(report))
    if not report.fits:
        found = fitting.first_that_fits(
            config, report, compile_with, max_tries=MAX_TRIES.value
        )
        numbers["fits_with"] = found and found[0]
        print(fitting.advice(found, MAX_TRIES.value), file=sys.stderr)
    if JSON.value == "-":
        print(json.dumps(numbers, indent=2))
    elif JSON.value:
        Path(JSON.value).write_text(json.dumps(numbers, indent=2) + "\n")
    if not report.fits:
        sys.exit(1)


def _latents(config) -> str:
    is_cached = CACHED_LATENTS.value
    if is_cached is None:
        is_cached = config.task == "denoising" and config.latent.cache
    return "cached" if is_cached else "encoded"


if __name__ == "__main__":
    config_lib.run_cli(main, required=("config", "topology"))
