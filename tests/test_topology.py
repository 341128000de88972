"""Programs compiled for devices that are not here: counts, exchanges, what would fit."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from configs import ffhq_f4, sd_v1
from configs.tiny import autoencoder as tiny_autoencoder
from configs.tiny import ldm as tiny_ldm
from ldm_jax import build, run, trees
from ldm_jax.compiling import fitting, hlo, report
from ldm_jax.compiling.description import describe
from ldm_jax.compiling.flops import count_flops
from ldm_jax.compiling.programs import Program, sample_program, train_program
from ldm_jax.compiling.topology import CHIPS, open_topology
from ldm_jax.nn.dense import Dense
from ldm_jax.training import sharding

needs_eight_devices = pytest.mark.skipif(
    jax.device_count() != 8, reason="needs the eight fake devices of conftest.py"
)
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


# Topologies


@pytest.mark.parametrize(
    "name", ["v7:2x2", "v5e:", "v5e:2xtwo", "cpu:0", "cpu:2x2", ""]
)
def test_name_that_is_no_topology_is_refused_with_what_there_is(name):
    with pytest.raises(ValueError, match="v4, v5e, v5p, v6e.*as in v5e:4x4"):
        open_topology(name)


@needs_libtpu
@pytest.mark.parametrize(
    ("name", "num_devices", "hbm"),
    [
        ("v5e:2x4", 8, 16),
        ("v5p:2x2x2", 8, 95),
        ("v4:2x2x1", 8, 16),  # each chip as two cores
    ],
)
def test_slices_have_the_chips_of_their_shape(name, num_devices, hbm):
    topology = open_topology(name)
    assert topology.chip is not None
    assert (len(topology.devices), topology.chip.hbm_bytes >> 30) == (num_devices, hbm)


@needs_libtpu
def test_shape_that_no_slice_has_is_refused():
    with pytest.raises(ValueError, match="'v5e:3x5'.*a slice that exists"):
        open_topology("v5e:3x5")


# FLOPs


def flops(fn, *arguments):
    return count_flops(jax.jit(fn).trace(*arguments).jaxpr)


X, W = jnp.zeros((8, 16)), jnp.zeros((16, 16))
PRODUCT = 2 * 8 * 16 * 16


def test_loops_count_by_their_length_and_branches_by_the_dearest():
    def loop(x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ W), None), x, length=7)[0]

    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ W @ W, lambda x: x @ W, x)

    assert flops(loop, X) == 7 * PRODUCT
    assert flops(branch, X) == 2 * PRODUCT


def test_unused_products_do_not_count_and_recomputed_ones_do():
    def loss(w, layer):
        return layer(layer(X, w), w).sum()

    def layer(x, w):
        return jnp.tanh(x @ w)

    def gradient(layer):
        return flops(lambda w: jax.value_and_grad(loss)(w, layer), W)

    assert flops(lambda x: (x @ W, x)[1], X) == 0
    assert gradient(layer) == 5 * PRODUCT  # 2 forward, 3 backward
    assert gradient(jax.checkpoint(layer)) == 7 * PRODUCT


@pytest.mark.parametrize("stride,padding", [(1, 1), (2, 1), (1, 0), (2, 3)])
def test_convolutions_and_their_gradients_count_as_xla_counts_them(stride, padding):
    x, kernel = jnp.zeros((2, 9, 9, 4)), jnp.zeros((3, 3, 4, 6))

    def convolve(x, kernel):
        pads = ((padding, padding),) * 2
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), pads, dimension_numbers=numbers
        )

    def gradients(x, kernel, g):
        return jax.vjp(convolve, x, kernel)[1](g)

    out = jax.eval_shape(convolve, x, kernel)
    for fn, arguments in ((convolve, (x, kernel)), (gradients, (x, kernel, out))):
        traced = jax.jit(fn).trace(*arguments)
        expected = traced.lower(lowering_platforms=("tpu",)).cost_analysis()["flops"]
        assert count_flops(traced.jaxpr) == expected


# Compiled text

TEXT = """\
HloModule m

%cond (c: (s32[], f32[4])) -> pred[] {
  %c = (s32[], f32[4]{0}) parameter(0)
  %limit = s32[]{:T(128)} constant(50)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (b: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = f32[4]{0} collective-permute(%x), channel_id=3, source_target_pairs={{0,1}}
  %f = f32[4]{0} fusion(%p), calls=%fused, backend_config={"estimated_cycles":"10"}
}

%fused (f: f32[4]) -> f32[4] {
  %g = f32[4]{0} negate(%f)
}

%all-reduce-scatter.5 (g: f32[64]) -> f32[8] {
  %g2 = f32[64]{0} all-reduce(%g), channel_id=9, replica_groups=[1,8]<=[8]
  ROOT %slice = f32[8]{0} dynamic-slice(%g2, %i)
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %h = f32[8]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.5
  %w = (s32[], f32[4]{0}) while(%t), condition=%cond, body=%body
  %r = (f32[10]{0}, bf16[6]{0}) all-reduce(%a, %b), channel_id=1, replica_groups=[1,8]<=[8]
  %s = (f32[4]{0}, f32[32]{0}) all-gather-start(%x), channel_id=2, replica_groups={{0,1,2,3,4,5,6,7}}
  %d = f32[32]{0} all-gather-done(%s), channel_id=2
  %q = f32[4]{0} reduce-scatter(%y), replica_groups=mesh['a'=2,'b'=4] {'b'}, channel_id=5
  ROOT %o = f32[4]{0} fusion(%w), calls=%fused, backend_config={"estimated_cycles":"7"}
}
"""


def test_exchanges_are_counted_by_kind_with_loops_and_groups():
    found = {c.kind: c for c in hlo.collectives(TEXT, 8)}
    assert {kind: (c.count, c.num_bytes) for kind, c in found.items()} == {
        "all-reduce": (1, 52),
        "all-gather": (1, 128),
        "reduce-scatter": (2, 64 + 256),
        "collective-permute": (50, 800),
    }
    assert found["all-reduce"].sent_bytes == 2 * 52 * 7 // 8
    assert found["all-gather"].sent_bytes == 128 * 7 // 8
    assert found["reduce-scatter"].sent_bytes == 64 * 3 // 4 + 256 * 7 // 8
    assert found["collective-permute"].sent_bytes == 800


def test_cycles_count_loops_by_their_length_and_once():
    assert hlo.cycles(TEXT) == (50 * 10 + 7, 10 + 7)


# Whole programs on fake devices


@pytest.fixture(scope="module")
def reports():
    """The tiny model's step, wide enough to be split, data parallel and under fsdp."""
    topology = open_topology("cpu:8")
    config = tiny_ldm.get_config()
    config.backbone.update({"model_channels": 64, "channel_mult": (1,)})

    def compiled(fsdp):
        mesh = sharding.make_mesh(-1, fsdp, devices=topology.devices)
        return report.compile_program(train_program(config, mesh), topology)

    return {"data": compiled(1), "fsdp": compiled(8)}


@needs_eight_devices
def test_data_parallel_steps_exchange_their_gradients_alone(reports):
    (exchange,) = reports["data"].collectives
    gradient = reports["data"].memory["parameters"]
    assert exchange.kind == "all-reduce"
    assert exchange.num_bytes == pytest.approx(gradient, rel=1e-3)


@needs_eight_devices
def test_fsdp_gathers_parameters_and_nothing_of_the_optimizer(reports):
    found = {c.kind: c for c in reports["fsdp"].collectives}
    whole = reports["data"].memory["parameters"]
    # No row of the batch moves, and less than one copy of the parameters comes together:
    # were moments or averages gathered as well, it would be four.
    assert set(found) <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert found["all-gather"].num_bytes < whole
    assert found["all-gather"].num_bytes > whole / 2


@needs_eight_devices
def test_memory_of_the_state_falls_with_fsdp_and_the_parts_add_up(reports):
    roles = ("parameters", "optimizer", "EMA")
    whole, split = (
        [reports[name].memory[role] for role in roles] for name in ("data", "fsdp")
    )
    assert sum(split) < 0.4 * sum(whole)  # a third of so small a model is not split
    for found in reports.values():
        assert found.fits
        assert sum(found.memory.values()) == pytest.approx(found.peak_bytes, rel=0.01)


@needs_eight_devices
def test_flops_are_those_of_one_device_whatever_the_layout(reports):
    data, fsdp = reports["data"], reports["fsdp"]
    assert data.flops == fsdp.flops
    assert data.xla_flops is not None
    assert data.flops < data.xla_flops < 1.25 * data.flops  # XLA's count with the rest


@needs_eight_devices
def test_reports_become_text_and_json(reports):
    text = describe(reports["fsdp"])
    assert "memory: peak" in text and "all-gather" in text and "MFU" not in text
    numbers = json.loads(json.dumps(reports["fsdp"].as_dict()))
    assert numbers["versions"]["jax"] == jax.__version__
    assert numbers["memory"]["optimizer"] == reports["fsdp"].memory["optimizer"]


def traced_on(num_devices, program, config, **choices):
    mesh = sharding.make_mesh(devices=jax.devices()[:num_devices])
    return program(config, mesh, **choices)


def test_cached_latents_leave_the_encoder_out():
    config = tiny_ldm.get_config()
    encoded = traced_on(1, train_program, config)
    cached = traced_on(1, train_program, config, latents="cached")
    experiment = build.experiment(config)
    image = build.example_batch(config, config.train.batch_size)["image"]
    params = encoded.arguments["frozen networks"]["autoencoder"]
    encoder = jax.jit(
        lambda params, image: (
            experiment.autoencoder.apply(
                {"params": params}, image, method="encode"
            ).moments
        )
    )
    difference = count_flops(encoded.traced.jaxpr) - count_flops(cached.traced.jaxpr)
    assert difference == count_flops(encoder.trace(params, image).jaxpr)
    assert cached.unused == ("frozen networks",)
    assert set(cached.arguments["batch"]) == {"moments", "class_label"}


def test_a_sampler_costs_its_steps_and_one_decoding():
    def cost(num_steps):
        config = tiny_ldm.get_config()
        config.sampler.num_steps = num_steps
        return count_flops(traced_on(1, sample_program, config).traced.jaxpr)

    step = cost(2) - cost(1)
    assert cost(20) == cost(1) + 19 * step
    assert 0 < cost(1) - step < 5 * step


def test_first_stages_have_a_step_and_no_sampler():
    config = tiny_autoencoder.get_config("vq")
    program = traced_on(1, train_program, config)
    assert set(program.arguments["optimizer"]) == {"generator", "discriminator"}
    assert count_flops(program.traced.jaxpr) > 0
    with pytest.raises(ValueError, match="draws no samples"):
        traced_on(1, sample_program, config)
    with pytest.raises(ValueError, match="no cached latents"):
        traced_on(1, train_program, config, latents="cached")


# Whole models, as shapes


@needs_eight_devices
@pytest.mark.parametrize("module", [ffhq_f4, sd_v1], ids=["ffhq_f4", "sd_v1"])
def test_fsdp_leaves_an_eighth_of_published_models_on_each_device(module):
    config = module.get_config()
    experiment = build.experiment(config)
    state = jax.eval_shape(run.create_fn(config, experiment), jax.random.key(0))
    shardings = sharding.infer_shardings(state, sharding.make_mesh(1, 8))
    placed = sharding.with_shardings(state, shardings)
    kept = (placed.params, placed.opt_state, placed.ema)
    assert report.bytes_on_device(kept) < 1.01 * trees.num_bytes(kept) / 8
    whole = [
        name
        for name, leaf in trees.flatten(placed).items()
        if leaf.size >= sharding.MIN_FSDP_ELEMENTS and leaf.sharding.is_fully_replicated
    ]
    assert whole == []


# What would fit


def full(**changes):
    """A report of 8 GB of state and 2 GB a picture on a chip of 16 GB."""
    values = {
        "program": "train", "topology": "v5e:2x4", "num_devices": 8, "batch_size": 64,
        "fits": False, "memory": {"parameters": 1 << 31, "optimizer": 1 << 32},
        "peak_bytes": 24 << 30, "hbm_bytes": 16 << 30, "flops": 1e12, "xla_flops": None,
        "collectives": (), "optimal_seconds": None, "seconds": None,
        "exchange_seconds": None, "compile_seconds": 1.0, "peak_flops": 197e12,
    }  # fmt: skip
    return report.Report(**(values | changes))


def test_proposals_are_fsdp_then_remat_then_the_batch_that_a_model_says():
    proposed = list(fitting.proposals(ffhq_f4.get_config(), full()))
    split = {"mesh.fsdp": 8, "mesh.data": 1}
    assert proposed[0] == split
    assert proposed[1] == split | {"backbone.remat": "blocks"}
    # 8 GB are there at any batch, 16 GB are eight pictures': four of them fit.
    assert [changes["train.batch_size"] for changes in proposed[2:]] == [32, 16, 8]


def test_first_proposal_that_compiles_into_memory_is_taken():
    asked = []

    def compile_with(config):
        asked.append((config.mesh.fsdp, config.backbone.remat))
        return full(fits=config.backbone.remat == "blocks")

    config = ffhq_f4.get_config()
    found = fitting.first_that_fits(config, full(), compile_with, max_tries=3)
    assert found is not None and found[0]["backbone.remat"] == "blocks"
    assert asked == [(8, "none"), (8, "blocks")]
    assert (config.mesh.fsdp, config.backbone.remat) == (1, "none")
    expected = (
        "--config.mesh.fsdp=8 --config.mesh.data=1 --config.backbone.remat=blocks"
    )
    assert expected in fitting.advice(found, 3)
    found = fitting.first_that_fits(config, full(), compile_with, max_tries=1)
    assert "nothing that was tried (1 " in fitting.advice(found, 1)


# A slice that is not here


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


@needs_libtpu
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


@needs_libtpu
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


@needs_libtpu
def test_program_that_does_not_fit_says_what_it_needs():
    topology = open_topology("v5e:2x4")
    found = report.compile_program(toy_program(topology, 2**25), topology)
    assert not found.fits
    assert found.peak_bytes > CHIPS["v5e"].hbm_bytes
    assert "does not fit" in describe(found)


@pytest.mark.slow
@needs_libtpu
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


# The command


def command(*flags):
    root = Path(__file__).parents[1]
    return subprocess.run(
        [
            sys.executable,
            "tools/compile_for_topology.py",
            "--config=configs/tiny/ldm.py",
            *flags,
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_command_compiles_and_writes_json():
    done = command("--topology=cpu:2", "--program=sample", "--json=-")
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout)
    assert (numbers["program"], numbers["num_devices"]) == ("sample", 2)
    assert numbers["fits"] and numbers["flops"] > 0


def test_the_command_ends_in_one_sentence_for_a_topology_that_is_none():
    done = command("--topology=v5e")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no topology 'v5e'")
    assert len(done.stderr.splitlines()) == 1
