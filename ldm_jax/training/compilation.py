"""What XLA says about, and keeps of, a compiled step."""

import os
from pathlib import Path

import jax


def enable_compilation_cache(directory: str | Path) -> None:
    """Keep compiled programs under `directory` for the next run of the same program.

    The environment variable JAX_COMPILATION_CACHE_DIR, when set, wins. A damaged entry is
    compiled again with a warning. Several processes on CPUs keep nothing: only process 0
    would find what it kept, and gloo would give up those that still compile.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not chosen and jax.process_count() > 1 and jax.default_backend() == "cpu":
        return
    directory = chosen or str(directory)
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def flops_per_step(
    compiled: jax.stages.Compiled, *, grad_accumulation: int = 1
) -> float | None:
    """Floating-point operations of one step on one device, or None if XLA does not say.

    XLA counts the body of a loop once, hence the factor. Rematerialised work counts as
    work.
    """
    analysis = compiled.cost_analysis()
    if isinstance(analysis, list):
        analysis = analysis[0] if analysis else None
    flops = (analysis or {}).get("flops", 0.0)
    return float(flops) * grad_accumulation if flops > 0 else None


def peak_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Device memory that one step needs: arguments, results and temporaries.

    Donated arguments share their memory with the results. None if XLA does not say.
    """
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
