"""Settings that must be made before jax is imported.

Eight fake CPU devices let sharded code run without hardware; unsharded code stays on the
first of them.
"""

import os
import shutil
import tempfile

XLA_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    # Compiling is most of the tests' time, and their arrays are small.
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
)

for flag in XLA_FLAGS:
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Programs compiled twice in one session, in subprocesses too, are compiled once. Set
# JAX_COMPILATION_CACHE_DIR to keep them from one session to the next.
_own_cache = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _own_cache = tempfile.mkdtemp(prefix="ldm_jax_compiled_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _own_cache
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def pytest_configure() -> None:
    """grain's workers read absl flags, which only absl.app would parse."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def pytest_unconfigure() -> None:
    """Remove this session's compilation cache."""
    if _own_cache is not None:
        shutil.rmtree(_own_cache, ignore_errors=True)
