"""Where parameters and activations lie while a layer computes, on the mesh in context.

Under fsdp parameters are stored in pieces. Left alone, XLA is as likely to move the
activations to the pieces as the pieces together; with these constraints a layer gathers
its parameters where it uses them and every device keeps to its own rows of the batch.
Without a mesh in context (see `training.sharding.on_mesh`) they do nothing.
"""

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Shaped


def platform() -> str:
    """What is compiled for: "cpu", "gpu" or "tpu".

    Of the mesh in context, whose devices need not exist here; else of this process.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def gathered(param: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """A parameter, whole on every device; its gradient is summed over all of them.

    Cast it to the compute dtype before: that is what travels.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:
        return param
    return jax.lax.with_sharding_constraint(param, P())


def batch_split(x: Shaped[Array, "b ..."]) -> Shaped[Array, "b ..."]:
    """Activations, their leading axis split over all devices if they divide it."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1 or x.shape[0] % mesh.size:
        return x
    return jax.lax.with_sharding_constraint(x, P(mesh.axis_names))
