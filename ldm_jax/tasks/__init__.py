"""What can be trained: tasks as data for `ldm_jax.training`."""
