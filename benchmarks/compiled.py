"""A program compiled before it is timed, with what XLA says of it."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from ldm_jax.training.compilation import peak_bytes


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program.

    Attributes:
      call: takes the dynamic arguments.
      seconds: of tracing, lowering and compiling.
      peak_bytes: see `training.compilation.peak_bytes`.
    """

    call: Callable[..., Any]
    seconds: float
    peak_bytes: int | None


def compiled(jitted: Any, *args: Any, **kwargs: Any) -> Compiled:
    """Compile a jitted function for these arguments (arrays, or their shapes)."""
    start = time.perf_counter()
    program = jitted.lower(*args, **kwargs).compile()
    return Compiled(program, time.perf_counter() - start, peak_bytes(program))
