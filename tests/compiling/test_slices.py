"""Programs compiled for a TPU slice that is not here."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from configs.tiny import ldm as tiny_ldm
from ldm_jax.compiling import report
from ldm_jax.compiling.description import describe
from ldm_jax.compiling.programs import Program, train_program
from ldm_jax.compiling.topology import CHIPS, open_topology
from ldm_jax.nn.dense import Dense
from ldm_jax.training import sharding

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


def toy_program(topology, num_rows):
    """A scan of products whose gradient is shared."""
    mesh = sharding.make_mesh(devices=topology.devices)
    x = jax.ShapeDtypeStruct(
        (num_rows, 512), jnp.float32, sharding=sharding.batch_sharding(mesh)
    )
    w = jax.ShapeDtypeStruct((512, 512), jnp.float32, sharding=NamedSharding(mesh, P()))

    def loss(w, x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=9)[0].sum()

    traced = jax.jit(jax.grad(loss)).trace(w, x)
    return Program("train", traced, num_rows, {"parameters": w, "batch": x})


def test_programs_compile_for_a_slice_with_exchanges_and_times():
    topology = open_topology("v5e:2x4")
    found = report.compile_program(toy_program(topology, 1024), topology)
    assert found.fits
    assert found.flops == 27 * 2 * 128 * 512 * 512
    assert sum(c.num_bytes for c in found.collectives) in (512 * 512 * 4, 512 * 512 * 2)
    # One pass through both loops takes a ninth of the time.
    assert found.seconds is not None and found.seconds > 0
    assert found.mfu is not None and 0 < found.mfu < 1
    assert "MFU" in describe(found)


def test_on_a_slice_fsdp_gathers_parameters_and_scatters_gradients():
    """Each once, in the compute dtype; moments stay where they are."""
    topology = open_topology("v5e:2x4")
    mesh = sharding.make_mesh(1, 8, devices=topology.devices)
    net = nn.Sequential([Dense(256, dtype=jnp.bfloat16) for _ in range(3)])
    optimizer = optax.adam(1e-3)
    x = jax.ShapeDtypeStruct((64, 256), jnp.float32)

    def create():
        params = net.init(jax.random.key(0), jnp.zeros(x.shape))
        return params, optimizer.init(params)

    def step(state, x):
        params, moments = state

        def loss(params):
            return jnp.asarray(net.apply(params, x), jnp.float32).var()

        updates, moments = optimizer.update(jax.grad(loss)(params), moments, params)
        return optax.apply_updates(params, updates), moments

    state = jax.eval_shape(create)
    shardings = sharding.infer_shardings(state, mesh)
    state = sharding.with_shardings(state, shardings)
    x = sharding.with_shardings(x, sharding.batch_sharding(mesh))
    jitted = jax.jit(sharding.on_mesh(step, mesh), out_shardings=shardings)
    found = report.compile_program(
        Program("train", jitted.trace(state, x), 64, {"parameters": state[0]}), topology
    )
    exchanged = {c.kind: c.num_bytes for c in found.collectives}
    kernels = 3 * 256 * 256 * 2
    assert exchanged["all-gather"] == exchanged["reduce-scatter"] == kernels
    assert exchanged.pop("all-reduce") < 1e4  # biases and statistics
    assert set(exchanged) == {"all-gather", "reduce-scatter"}


def test_program_that_does_not_fit_says_what_it_needs():
    topology = open_topology("v5e:2x4")
    found = report.compile_program(toy_program(topology, 2**25), topology)
    assert not found.fits
    assert found.peak_bytes > CHIPS["v5e"].hbm_bytes
    assert "does not fit" in describe(found)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 8])
def test_the_tiny_model_compiles_for_a_slice(fsdp):
    topology = open_topology("v5e:2x4")
    config = tiny_ldm.get_config()
    config.backbone.model_channels = 64
    config.train.precision = "bfloat16"
    mesh = sharding.make_mesh(-1, fsdp, devices=topology.devices)
    found = report.compile_program(train_program(config, mesh), topology)
    assert found.fits and found.seconds
    assert found.mfu is not None and np.isfinite(found.mfu)
    kinds = {c.kind for c in found.collectives}
    assert "all-to-all" not in kinds and kinds & {"all-reduce", "reduce-scatter"}
