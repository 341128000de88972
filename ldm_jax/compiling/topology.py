"""The devices that a program is compiled for: TPU slices that need not exist here.

libtpu (`pip install "jax[tpu]"`) compiles for any slice on any machine, without a TPU.
"""

import contextlib
import dataclasses
import math
import os
from typing import Any

import jax
from jax.experimental import topologies


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one jax device can do, from the vendor's data sheet.

    Attributes:
      name: as the slices are called, "v5e".
      accelerator: what libtpu calls a slice of it, with the number of cores behind.
      cores: TensorCores a chip.
      hbm_bytes: memory; a few percent of it are XLA's.
      peak_flops: dense bfloat16 FLOP/s.
      hbm_bytes_per_second: memory bandwidth.
      ici_bytes_per_second: of all links together, one direction.
      clock_hertz: of a core, by which the compiler's cycles become seconds.
    """

    name: str
    accelerator: str
    cores: int
    hbm_bytes: int
    peak_flops: float
    hbm_bytes_per_second: float
    ici_bytes_per_second: float
    clock_hertz: float


# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}; bidirectional ICI figures are halved, and
# the clock is the peak over the products of a chip's matrix units in a cycle.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "v4", 2, 32 << 30, 275e12, 1200e9, 300e9, 1.05e9),
        Chip("v5e", "v5litepod", 1, 16 << 30, 197e12, 819e9, 200e9, 1.5e9),
        Chip("v5p", "v5p", 2, 95 << 30, 459e12, 2765e9, 600e9, 1.75e9),
        Chip("v6e", "v6e", 1, 32 << 30, 918e12, 1640e9, 400e9, 1.75e9),
    )
}
# The compiler at its default effort takes 20 times as long for the same memory and
# FLOPs, and then gives no estimate of the time.
TPU_COMPILER_OPTIONS = {
    "exec_time_optimization_effort": -1.0,
    "memory_fitting_effort": -1.0,
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
      name: "v5e:4x4" or "cpu:8".
      devices: descriptions of them; they can be compiled for, not run on.
      chip: None for CPUs, of which nothing is known.
      compiler_options: for `lowered.compile`.
    """

    name: str
    devices: tuple[Any, ...]
    chip: Chip | None
    compiler_options: dict[str, float]


def open_topology(name: str) -> Topology:
    """The topology of a name such as "v5e:4x4" (chips along each axis) or "cpu:8".

    Raises:
      ValueError: for a name that is none, a shape that libtpu does not know, or if libtpu
        is not installed.
    """
    kind, _, shape = name.partition(":")
    if kind == "cpu" and shape.isdecimal() and int(shape) > 0:
        return Topology(name, _cpus(int(shape)), None, {})
    sizes = shape.split("x")
    if kind not in CHIPS or not all(size.isdecimal() for size in sizes):
        raise ValueError(
            f"there is no topology {name!r}: give a kind of chip ({', '.join(CHIPS)}) and "
            "the number of chips along each axis, as in v5e:4x4 or v5p:2x2x2, or cpu:8"
        )
    num_chips = math.prod(map(int, sizes))
    devices = _tpus(CHIPS[kind], name, num_chips)
    chip = _share(CHIPS[kind], len(devices) // num_chips)
    return Topology(name, devices, chip, TPU_COMPILER_OPTIONS)


def _share(chip: Chip, num_devices: int) -> Chip:
    """What one device has of a chip that shows as several."""
    return dataclasses.replace(
        chip,
        hbm_bytes=chip.hbm_bytes // num_devices,
        peak_flops=chip.peak_flops / num_devices,
        hbm_bytes_per_second=chip.hbm_bytes_per_second / num_devices,
        ici_bytes_per_second=chip.ici_bytes_per_second / num_devices,
    )


def _cpus(number: int) -> tuple[Any, ...]:
    """Fake CPU devices, of which a process can have any number if it asks early."""
    with contextlib.suppress(RuntimeError):  # it runs already, perhaps with enough
        jax.config.update("jax_num_cpu_devices", number)
    devices = jax.devices("cpu")
    if len(devices) < number:
        raise ValueError(
            f"jax runs with {len(devices)} CPU devices already, not {number}: start a "
            "process of its own for cpu topologies"
        )
    return tuple(devices[:number])


def _tpus(chip: Chip, name: str, num_chips: int) -> tuple[Any, ...]:
    # Else libtpu asks a metadata server that only Cloud TPU machines have.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Nothing is run, so compilations may go on beside one another, or beside a training.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    accelerator = f"{chip.accelerator}-{num_chips * chip.cores}"
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", accelerator)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"libtpu gives no topology {name!r} ({reason}): install it with pip install "
            "'jax[tpu]', and give the shape of a slice that exists"
        ) from error
    return tuple(found.devices)
