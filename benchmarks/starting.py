"""Rows of starting: compiling, with and without the persistent cache; a first picture."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.rows import Setting, Sides

ROOT = Path(__file__).parents[1]

# What a process does that compiles the demo's train step.
_COMPILE = """
from ldm_jax.training.compilation import enable_compilation_cache
enable_compilation_cache("unused: the environment chooses")
from benchmarks import unet
from benchmarks.rows import Setting
print(unet.step(Setting(references=()), "emoji_f4", 32).ours())
"""


def compile_step(setting: Setting) -> Sides:
    """A process from its start to the demo's first train step: warm cache, and none."""
    del setting
    return _with_and_without_cache([sys.executable, "-c", _COMPILE])


def sample_command(setting: Setting, checkpoint: str) -> Sides:
    """`python sample.py` from its start to one picture on disk: warm cache, and none.

    Raises:
      FileNotFoundError: if there is no such run.
    """
    del setting
    if not (ROOT / checkpoint).is_dir():
        raise FileNotFoundError(f"no run {checkpoint}: make demo trains it")
    outdir = tempfile.mkdtemp()
    flags = [f"--checkpoint={checkpoint}", "--num_samples=1", f"--outdir={outdir}"]
    return _with_and_without_cache([sys.executable, "sample.py", *flags])


def _with_and_without_cache(command: Sequence[str]) -> Sides:
    warm = tempfile.mkdtemp()

    def cold() -> None:
        with tempfile.TemporaryDirectory() as folder:
            _run(command, folder)

    return Sides(_runner(command, warm), {"empty cache": cold}, unit="starts")


def _runner(command: Sequence[str], cache: str) -> Callable[[], None]:
    return lambda: _run(command, cache)


def _run(command: Sequence[str], cache: str) -> None:
    settings = {"JAX_COMPILATION_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | settings,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
