"""Whole programs on fake devices: memory, exchanges and FLOPs of each."""

import json

import jax
import pytest

from configs.tiny import ldm as tiny_ldm
from ldm_jax.compiling import report
from ldm_jax.compiling.description import describe
from ldm_jax.compiling.programs import train_program
from ldm_jax.compiling.topology import open_topology
from ldm_jax.training import sharding

needs_eight_devices = pytest.mark.skipif(
    jax.device_count() != 8, reason="needs the eight fake devices of conftest.py"
)


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
