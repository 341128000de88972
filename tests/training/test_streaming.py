"""Checkpoints written and read one array after the other."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import trees
from ldm_jax.lazy_array import LazyArray, read_array
from ldm_jax.training import checkpoints, streaming
from ldm_jax.training.state import TrainState


def values():
    generator = np.random.default_rng(0)
    return {
        "backbone": {
            "large": generator.standard_normal((300, 400), dtype=np.float32),
            "transposed": generator.standard_normal((500, 200), dtype=np.float32).T,
            "small": generator.standard_normal(7, dtype=np.float32),
        },
        "conditioner": {"scalar": np.float32(3.5)},
    }


def lazily(tree):
    def leaf(value):
        value = np.asarray(value)
        return LazyArray(value.shape, value.dtype, lambda: value)

    return jax.tree.map(leaf, tree)


def test_a_streamed_checkpoint_is_read_like_any_other(tmp_path):
    params = values()
    items = {"params": lazily(params), "ema": {}, "collections": {"scale": np.ones(())}}
    streaming.write_checkpoint(tmp_path, 12, items, {"a": "b"})
    assert checkpoints.all_steps(tmp_path) == [12]
    assert checkpoints.load_meta(tmp_path) == {"a": "b", "step": 12}
    assert checkpoints.load_item(tmp_path, "ema") == {}
    jax.tree.map(
        np.testing.assert_array_equal, checkpoints.load_item(tmp_path, "params"), params
    )


def test_any_checkpoint_can_be_opened_lazily(tmp_path):
    params = values()
    streaming.write_checkpoint(tmp_path, 3, {"params": lazily(params)})
    opened = streaming.open_item(tmp_path, "params")
    assert isinstance(opened["backbone"]["large"], LazyArray)
    assert opened["backbone"]["large"].shape == (300, 400)
    jax.tree.map(
        lambda lazy, value: np.testing.assert_array_equal(read_array(lazy), value),
        opened,
        params,
    )
    assert streaming.open_item(tmp_path, "ema") == {}


def test_what_a_run_saved_can_be_opened_lazily(tmp_path):
    large = jnp.arange(300 * 400, dtype=jnp.float32).reshape(300, 400)
    state = TrainState(
        step=jnp.int32(5),
        params={"backbone": {"large": large, "bias": jnp.ones(3)}},
        ema=None,
        opt_state={"x": (jnp.zeros(2),)},
        collections={},
    )
    with checkpoints.open_checkpoints(tmp_path) as manager:
        checkpoints.save(manager, state)
        checkpoints.wait(manager)
    opened = streaming.open_item(tmp_path, "params")
    np.testing.assert_array_equal(opened["backbone"]["large"].read(), large)
    np.testing.assert_array_equal(opened["backbone"]["bias"].read(), np.ones(3))


def test_arrays_are_written_and_read_in_batches(monkeypatch, tmp_path):
    monkeypatch.setattr(streaming, "WRITE_BYTES", 1000)
    monkeypatch.setattr(streaming, "READ_BYTES", 1000)
    params = {f"a{i}": np.full(100, i, np.float32) for i in range(7)}
    params["b"] = np.ones(1000, np.float32)
    streaming.write_checkpoint(tmp_path, 0, {"params": lazily(params)})
    stored = trees.flatten(checkpoints.load_item(tmp_path, "params"))
    assert all(np.array_equal(stored[name], params[name]) for name in params)
    opened = trees.flatten(streaming.open_item(tmp_path, "params"))
    for name in reversed(list(params)):  # any order will do
        np.testing.assert_array_equal(opened[name].read(), params[name])


def test_a_missing_step_is_named(tmp_path):
    streaming.write_checkpoint(tmp_path, 3, {"params": lazily(values())})
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 4"):
        streaming.open_item(tmp_path, "params", step=4)


MEASURE = """
import sys
import numpy as np
from ldm_jax import trees
from ldm_jax.lazy_array import LazyArray
from ldm_jax.training import streaming

def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024

def make(i):
    return lambda: np.random.default_rng(i).standard_normal((2048, 2048), np.float32)

count, shape, folder = 32, (2048, 2048), sys.argv[1]
tree = {f"a{i}": LazyArray(shape, np.dtype("float32"), make(i)) for i in range(count)}
before = peak()
streaming.write_checkpoint(folder, 0, {"params": tree})
opened = trees.flatten(streaming.open_item(folder, "params"))
assert all(np.array_equal(opened[n].read(), tree[n].read()) for n in list(tree)[::9])
print(peak() - before, count * 16)
"""


def test_memory_stays_far_below_the_checkpoint(tmp_path):
    out = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    grown, size = map(int, out.split()[-2:])
    assert size == 512
    assert grown < 1.2 * size  # orbax alone would take three times the size
