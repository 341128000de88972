"""Where arrays live: a mesh ("data", "fsdp") and rules from names to shardings.

Models never mention a mesh. The whole training state is laid out from its shapes:
`infer_shardings(jax.eval_shape(create), mesh)`, then `jax.jit(create, out_shardings=...)`.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ldm_jax.trees import map_with_name

PyTree = Any
Rule = Callable[[tuple[int, ...], Mesh], P]

AXES = ("data", "fsdp")
MIN_FSDP_ELEMENTS = 2**14


def make_mesh(
    data: int = -1, fsdp: int = 1, *, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh with axes ("data", "fsdp") over all devices; -1 takes what is left.

    Raises:
      ValueError: if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes, num_devices = [data, fsdp], len(devices)
    known = math.prod(size for size in sizes if size != -1)
    fits = sizes.count(-1) <= 1 and all(size == -1 or size > 0 for size in sizes)
    if fits and -1 in sizes and num_devices % known == 0:
        sizes[sizes.index(-1)] = num_devices // known
    if not fits or math.prod(sizes) != num_devices:
        raise ValueError(
            f"a mesh of data={data} x fsdp={fsdp} does not fit {num_devices} device(s): "
            f"let their product be {num_devices}, with one of them -1 for what is left"
        )
    return jax.make_mesh(
        tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
    )


def replicate(shape: tuple[int, ...], mesh: Mesh) -> P:
    """The whole array on every device."""
    return P()


def fsdp(shape: tuple[int, ...], mesh: Mesh) -> P:
    """Split the largest dimension that the fsdp axis divides, the last among equals.

    Arrays of fewer than `MIN_FSDP_ELEMENTS` elements stay whole: gathering them costs
    more than they weigh.
    """
    num_shards = mesh.shape["fsdp"]
    divisible = [i for i, size in enumerate(shape) if size % num_shards == 0]
    if num_shards == 1 or math.prod(shape) < MIN_FSDP_ELEMENTS or not divisible:
        return P()
    axis = max(divisible, key=lambda i: (shape[i], i))
    return P(*("fsdp" if i == axis else None for i in range(axis + 1)))


RULES: dict[str, Rule] = {"replicate": replicate, "fsdp": fsdp}
DEFAULT_RULES = ((".*", "fsdp"),)


def infer_shardings(
    shapes: PyTree, mesh: Mesh, rules: Sequence[tuple[str, str]] = DEFAULT_RULES
) -> PyTree:
    """A sharding for every leaf, from the first rule whose pattern occurs in its name.

    Args:
      shapes: arrays or `jax.eval_shape` results; for a TrainState the names read
        "params/backbone/...", "opt_state/denoise/0/mu/backbone/...".
      rules: ordered (regular expression, name in `RULES`); what matches none is
        replicated.

    Raises:
      ValueError: if a rule's name is unknown.
    """
    unknown = sorted({rule for _, rule in rules} - set(RULES))
    if unknown:
        raise ValueError(f"unknown sharding rule(s) {unknown}: choose of {[*RULES]}")
    compiled = [(re.compile(pattern), RULES[rule]) for pattern, rule in rules]

    def sharding(name: str, leaf: Any) -> NamedSharding:
        for pattern, rule in compiled:
            if pattern.search(name):
                return NamedSharding(mesh, rule(leaf.shape, mesh))
        return NamedSharding(mesh, P())

    return map_with_name(sharding, shapes)


def with_shardings(shapes: PyTree, shardings: PyTree) -> PyTree:
    """Shapes that carry shardings: the target of a checkpoint restore."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        shardings,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all devices, whichever mesh axis they are on."""
    return NamedSharding(mesh, P(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device, for frozen parameters and keys."""
    return NamedSharding(mesh, P())


def on_mesh(fn: Callable, mesh: Mesh) -> Callable:
    """`fn`, traced with the mesh in context: for code whose choices depend on one device.

    Attention, say, asks how much of the batch a device holds. Nothing is constrained.
    """

    @functools.wraps(fn)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return fn(*args, **kwargs)

    return traced


def check_batch_size(batch_size: int, mesh: Mesh, grad_accumulation: int = 1) -> None:
    """Fail before anything is built if a global batch cannot be laid out.

    Raises:
      ValueError: if it is not a multiple of devices x grad_accumulation.
    """
    unit = mesh.size * grad_accumulation
    if batch_size < 1 or batch_size % unit:
        raise ValueError(
            f"a batch of {batch_size} cannot be split over {mesh.size} device(s) (data="
            f"{mesh.shape['data']}, fsdp={mesh.shape['fsdp']}) with grad_accumulation="
            f"{grad_accumulation}: make the batch size a multiple of {unit}"
        )


def process_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """Which rows of a global batch this process's devices hold, in order.

    Not always a block: on a TPU slice a host's chips may lie apart in the mesh.
    """
    held = sharding.addressable_devices_indices_map((batch_size,)).values()
    everything = np.arange(batch_size)
    return np.unique(np.concatenate([everything[index] for index in held if index]))


def put_batch(
    batch: Mapping[str, np.ndarray], sharding: NamedSharding
) -> dict[str, jax.Array]:
    """This process's rows of a batch -> global arrays laid out by `sharding`.

    Args:
      batch: the rows that `process_rows` names.

    Raises:
      ValueError: if the global batch is not a multiple of the number of devices.
    """
    mesh = sharding.mesh
    assert isinstance(mesh, Mesh)
    for x in batch.values():
        check_batch_size(x.shape[0] * jax.process_count(), mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, x)
        for name, x in batch.items()
    }
