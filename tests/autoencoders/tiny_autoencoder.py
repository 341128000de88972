"""A first stage small enough to differentiate in a test, and weights for it."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import trees

KEY = jax.random.key(0)
TINY = {
    "z_channels": 4,
    "embed_dim": 3,
    "ch": 8,
    "ch_mult": (1, 2),
    "num_res_blocks": 1,
    "resolution": 16,
    "num_groups": 4,
}


def image(height=16, width=16, batch=2):
    draw = np.random.default_rng(0).uniform(-1, 1, (batch, height, width, 3))
    return jnp.asarray(draw, jnp.float32)


def shapes_of(module):
    return jax.eval_shape(module.init, KEY, image(), KEY)["params"]


def random_params(module):
    """Weights drawn with numpy: compiling `init` takes longer than the tests."""
    generator = np.random.default_rng(0)

    def draw(name, leaf):
        bound = 1 / math.sqrt(math.prod(leaf.shape[:-1]) or 1)
        centre = 1.0 if name.endswith("scale") else 0.0
        values = centre + generator.uniform(-bound, bound, leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return trees.map_with_name(draw, shapes_of(module))


def call(module, params, *args, method):
    """`module.<method>(*args)`, compiled."""

    def apply(params, *args):
        return module.apply({"params": params}, *args, method=method)

    return jax.jit(apply)(params, *args)


def shape_of_call(module, params, *args, method):
    """The same without computing anything."""

    def apply(params, *args):
        return module.apply({"params": params}, *args, method=method)

    return jax.eval_shape(apply, params, *args)
