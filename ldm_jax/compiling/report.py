"""What a compiled program needs and takes on one device: numbers, and as text."""

import dataclasses
import re
import time
from typing import Any

import jax
import jaxlib

from ldm_jax import trees
from ldm_jax.compiling import hlo
from ldm_jax.compiling.flops import count_flops
from ldm_jax.compiling.programs import Program
from ldm_jax.compiling.topology import Topology
from ldm_jax.training import compilation

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclasses.dataclass(frozen=True)
class Report:
    """One compilation. Bytes, FLOPs and seconds are of one device and one call.

    Attributes:
      program: "train" or "sample".
      topology, num_devices, batch_size: what for; the batch is global.
      fits: whether the compiler found room for it.
      memory: bytes by role. "arguments" of the roles before it are those as the compiler
        lays them out, padded; "activations and temporaries" is the most at one time.
      peak_bytes: of all that lies on the device at the worst moment; if it does not fit,
        the least that the compiler says is needed.
      hbm_bytes: what the chip has; None for CPUs, as all that follows from a chip.
      flops: products and convolutions, see `count_flops`.
      xla_flops: XLA's count, elementwise work included but loops taken once; None if the
        compiler stopped.
      collectives: exchanges between devices, by kind.
      optimal_seconds: XLA's cost analysis, which takes loops once and has no number for
        some fusions; None if it has none for the whole.
      seconds: the compiler's cycles of all instructions, loops as long as they are, at
        the chip's clock.
      exchange_seconds: the bytes sent over the bandwidth of all links together.
      compile_seconds: wall time.
    """

    program: str
    topology: str
    num_devices: int
    batch_size: int
    fits: bool
    memory: dict[str, int]
    peak_bytes: int
    hbm_bytes: int | None
    flops: float
    xla_flops: float | None
    collectives: tuple[hlo.Collective, ...]
    optimal_seconds: float | None
    seconds: float | None
    exchange_seconds: float | None
    compile_seconds: float
    peak_flops: float | None

    @property
    def mfu(self) -> float | None:
        """FLOPs over what the chip could do in `seconds`; recomputed work counts."""
        if not self.seconds or not self.peak_flops:
            return None
        return self.flops / self.seconds / self.peak_flops

    @property
    def images_per_second(self) -> float | None:
        """Of one device, if exchanges hide behind computing."""
        return self.seconds and self.batch_size / self.num_devices / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the versions that the numbers hold for."""
        return {
            **dataclasses.asdict(self),
            "mfu": self.mfu,
            "images_per_second_per_device": self.images_per_second,
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """Of what decides the numbers."""
    found = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}
    try:
        import libtpu
    except ImportError:
        return found
    return found | {"libtpu": libtpu.__version__}


def compile_program(program: Program, topology: Topology) -> Report:
    """Compile and measure. A program that does not fit gives a report that says so."""
    num_devices = len(topology.devices)
    chip = topology.chip
    memory = {role: bytes_on_device(tree) for role, tree in program.arguments.items()}
    known = {
        "program": program.name,
        "topology": topology.name,
        "num_devices": num_devices,
        "batch_size": program.batch_size,
        "hbm_bytes": chip.hbm_bytes if chip else None,
        "peak_flops": chip.peak_flops if chip else None,
        "flops": count_flops(program.traced.jaxpr) / num_devices,
    }
    started = time.perf_counter()
    try:
        compiled = program.traced.lower().compile(topology.compiler_options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Report(
            **known,
            fits=False,
            memory=memory,
            peak_bytes=_needed_bytes(str(error), sum(memory.values())),
            xla_flops=None,
            collectives=(),
            optimal_seconds=None,
            seconds=None,
            exchange_seconds=None,
            compile_seconds=time.perf_counter() - started,
        )
    elapsed = time.perf_counter() - started
    resident = sum(memory[role] for role in program.unused)
    memory |= _compiled_memory(compiled, sum(memory.values()) - resident)
    peak = (compilation.peak_bytes(compiled) or 0) + resident
    text = compiled.as_text() or ""
    exchanges = tuple(hlo.collectives(text, num_devices))
    sent = sum(exchange.sent_bytes for exchange in exchanges)
    optimal, seconds = _seconds(compiled, text, topology)
    return Report(
        **known,
        fits=chip is None or peak <= chip.hbm_bytes,
        memory=memory,
        peak_bytes=peak,
        xla_flops=compilation.flops_per_step(compiled),
        collectives=exchanges,
        optimal_seconds=optimal,
        seconds=seconds,
        exchange_seconds=sent / chip.ici_bytes_per_second if chip else None,
        compile_seconds=elapsed,
    )


def _compiled_memory(compiled: jax.stages.Compiled, arguments: int) -> dict[str, int]:
    stats = compiled.memory_analysis()
    if stats is None:
        return {}
    fresh = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return {
        "padding": max(stats.argument_size_in_bytes - arguments, 0),
        "results": max(fresh, 0),
        "activations and temporaries": stats.temp_size_in_bytes,
    }


def _seconds(
    compiled: jax.stages.Compiled, text: str, topology: Topology
) -> tuple[float | None, float | None]:
    """`optimal_seconds` and `seconds` of a report."""
    if topology.chip is None:
        return None, None
    optimal = (compiled.cost_analysis() or {}).get("optimal_seconds", 0.0)
    seconds = hlo.cycles(text) / topology.chip.clock_hertz
    return (optimal if optimal > 0 else None), seconds or None


def _needed_bytes(message: str, arguments: int) -> int:
    """From the compiler's complaint; the arguments if it names no number."""
    for pattern, extra in (
        (r"Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm", 0),
        (r"temporaries \(([\d.]+)([KMG])\) exceeds", arguments),
        (r"\(([\d.]+)([KMG])\) exceeds available HBM", 0),
    ):
        if match := re.search(pattern, message):
            return round(float(match[1]) * _UNITS[match[2]]) + extra
    return arguments


def bytes_on_device(tree: Any) -> int:
    """On one device, of a tree of shapes with shardings."""
    return sum(
        trees.num_bytes(
            jax.ShapeDtypeStruct(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)
        )
        for leaf in jax.tree.leaves(tree)
    )
