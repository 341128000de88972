"""Eight fake devices give what one gives; layouts follow the rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from jax.sharding import PartitionSpec as P

from ldm_jax.training import sharding
from ldm_jax.training.step import _microbatches
from ldm_jax.trees import flatten

pytestmark = pytest.mark.skipif(
    jax.device_count() != 8, reason="needs the eight fake devices of conftest.py"
)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [((-1, 1), (8, 1)), ((-1, 4), (2, 4)), ((2, -1), (2, 4)), ((1, 8), (1, 8))],
)
def test_minus_one_takes_what_is_left(sizes, shape):
    mesh = sharding.make_mesh(*sizes)
    assert (mesh.shape["data"], mesh.shape["fsdp"]) == shape


@pytest.mark.parametrize("sizes", [(3, -1), (-1, -1), (4, 4), (0, 8), (-2, 1)])
def test_mesh_that_does_not_fit_is_refused(sizes):
    with pytest.raises(ValueError, match="let their product be 8"):
        sharding.make_mesh(*sizes)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((3, 3, 64, 128), P(None, None, None, "fsdp")),
        ((3, 3, 128, 64), P(None, None, "fsdp")),
        ((256, 256), P(None, "fsdp")),  # the last among equals
        ((1000, 130), P("fsdp")),
        ((129, 131), P()),  # 8 divides neither
        ((64, 64), P()),  # too small to be worth it
        ((), P()),
    ],
)
def test_fsdp_splits_the_largest_dimension_that_divides(shape, spec):
    mesh = sharding.make_mesh(1, 8)
    assert sharding.fsdp(shape, mesh) == spec


def test_first_matching_rule_wins():
    mesh = sharding.make_mesh(1, 8)
    shapes = {"embed": jnp.zeros((256, 256)), "dense": jnp.zeros((256, 256))}
    rules = (("embed", "replicate"), (".*", "fsdp"))
    found = sharding.infer_shardings(shapes, mesh, rules)
    assert found["embed"].spec == P()
    assert found["dense"].spec == P(None, "fsdp")
    with pytest.raises(ValueError, match=r"unknown sharding rule\(s\) \['tensor'\]"):
        sharding.infer_shardings(shapes, mesh, ((".*", "tensor"),))


def train(mesh, num_steps=6, **kwargs):
    """(losses, state) of a run on a mesh."""
    _, shardings = toy.layout(mesh)
    state = jax.jit(toy.create, out_shardings=shardings)()
    step_fn = toy.sharded_step_fn(mesh, shardings, **kwargs)
    losses = []
    for step in range(1, num_steps + 1):
        place = sharding.batch_sharding(mesh)
        state, metrics = step_fn(state, sharding.put_batch(toy.host_batch(step), place))
        losses.append([float(metrics["generator/loss"]), float(metrics["critic/loss"])])
    return np.array(losses), state


@pytest.fixture(scope="module")
def one_device():
    return train(sharding.make_mesh(devices=jax.devices()[:1]))


@pytest.mark.parametrize("sizes", [(8, 1), (1, 8), (2, 4)], ids=str)
def test_eight_devices_give_the_losses_of_one(one_device, sizes):
    losses, state = train(sharding.make_mesh(*sizes))
    np.testing.assert_allclose(losses, one_device[0], rtol=2e-5)
    for name, value in flatten(state.params).items():
        expected = flatten(one_device[1].params)[name]
        np.testing.assert_allclose(value, expected, atol=1e-5, err_msg=name)


def test_fsdp_splits_parameters_moments_and_average():
    _, state = train(sharding.make_mesh(1, 8), num_steps=1)
    split = {
        name
        for name, leaf in flatten(state).items()
        if leaf.addressable_shards[0].data.shape != leaf.shape
    }
    kernel = "generator/square/kernel"
    assert split == {
        *(f"params/{kernel}", f"ema/{kernel}"),
        *(f"opt_state/generator/0/{moment}/{kernel}" for moment in ("mu", "nu")),
    }


def test_grad_accumulation_on_eight_devices_equals_one(one_device):
    mesh = sharding.make_mesh()
    losses, _ = train(mesh, num_steps=2, grad_accumulation=2)
    alone, _ = train(
        sharding.make_mesh(devices=jax.devices()[:1]), num_steps=2, grad_accumulation=2
    )
    np.testing.assert_allclose(losses, alone, rtol=2e-5)


def test_every_microbatch_is_spread_over_all_devices():
    place = sharding.batch_sharding(sharding.make_mesh(2, 4))
    batch = sharding.put_batch(toy.host_batch(1), place)
    compiled = jax.jit(lambda b: _microbatches(b, 2)).lower(batch).compile()
    x = compiled(batch)["x"]
    assert x.shape == (2, toy.BATCH_SIZE // 2, 4)
    assert x.sharding.shard_shape(x.shape) == (2, toy.BATCH_SIZE // 16, 4)
    collectives = ("all-to-all", "all-gather", "collective-permute", "all-reduce")
    assert not [name for name in collectives if name in compiled.as_text()]


def test_batch_that_does_not_divide_is_refused():
    mesh = sharding.make_mesh(2, 4)
    with pytest.raises(ValueError, match="make the batch size a multiple of 8"):
        sharding.put_batch({"x": np.zeros((12, 3))}, sharding.batch_sharding(mesh))
    with pytest.raises(ValueError, match="make the batch size a multiple of 16"):
        sharding.check_batch_size(24, mesh, grad_accumulation=2)
    sharding.check_batch_size(32, mesh, grad_accumulation=2)


def test_batch_lies_on_every_device():
    mesh = sharding.make_mesh(2, 4)
    batch = sharding.put_batch(toy.host_batch(1), sharding.batch_sharding(mesh))
    assert len(batch["x"].addressable_shards) == 8
    assert batch["x"].addressable_shards[0].data.shape == (toy.BATCH_SIZE // 8, 4)
