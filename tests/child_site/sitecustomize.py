"""Lets several CPU processes share one compilation cache; first on their PYTHONPATH.

JAX hashes a CPU's process index into the cache's keys, though the programs of all processes
of a run are the same, and lets process 0 alone write. So the others would compile anew
what process 0 only reads, and gloo, which waits for 30 seconds, would give them up.
"""

from jax._src import cache_key

cache_key._hash_accelerator_config = cache_key._hash_devices
