"""`jax.jit` with the compiler options that suit these layers."""

from collections.abc import Callable
from typing import Any

import jax

# YNNPACK, which jax gives convolutions to on a CPU, divides them among threads worse than
# Eigen: at most shapes 1.1 to 1.7 times the time on two (BENCHMARKS.md). The list is jax's
# without convolutions.
_CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    )
}


def jit(
    function: Callable[..., Any], *, platform: str | None = None, **options: Any
) -> Any:
    """`jax.jit` of a program that runs networks.

    Args:
      function: the outermost one, for JAX takes compiler options of no other.
      platform: what the program is for; None for what this process computes on.
      **options: of `jax.jit`.

    Returns:
      The compiled function, which on a CPU raises ValueError inside another jitted one.
    """
    on_cpu = (platform or jax.default_backend()) == "cpu"
    chosen = _CPU_OPTIONS if on_cpu else None
    return jax.jit(function, compiler_options=chosen, **options)
