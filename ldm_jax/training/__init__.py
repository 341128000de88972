"""Training machinery: state, step, loop, sharding, checkpoints. Knows no diffusion."""
