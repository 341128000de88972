"""Pictures from disk to batches: numpy, Pillow and grain; never jax."""
