"""Names of slices and chips."""

import importlib.util

import pytest

from ldm_jax.compiling.topology import open_topology

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


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
