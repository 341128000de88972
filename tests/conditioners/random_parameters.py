"""Parameters for tests that need numbers, not initialisers: nothing is compiled."""

import jax
import numpy as np


def random_variables(conditioner, batch):
    """Normal values of a size at which no softmax saturates; scales around one."""
    shapes = jax.eval_shape(conditioner.init, jax.random.key(0), batch)
    random = np.random.default_rng(0)

    def draw(path, leaf):
        mean = float(path[-1].key == "scale")
        return (mean + 0.2 * random.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)
