"""Latent Diffusion Models in JAX/Flax."""

from typing import Any

__all__ = ["load"]


def load(*args: Any, **kwargs: Any) -> Any:
    """Load a trained model; see `ldm_jax.loading.load`."""
    from ldm_jax import loading  # only here, so that importing a part stays light

    return loading.load(*args, **kwargs)
