"""What this machine has for ldm_jax, and what it lacks: python -m ldm_jax.doctor."""
