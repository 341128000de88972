"""Checkpoints come back exact, on any layout, and say what is wrong when they cannot."""

import collections
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from ldm_jax.training import checkpoints, sharding
from ldm_jax.trees import flatten


@pytest.fixture(scope="module")
def trained():
    """A state after two steps."""
    step, state = jax.jit(toy.step_fn), toy.new_state()
    for index in (1, 2):
        state, _ = step(state, toy.FROZEN, toy.host_batch(index))
    return state


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    """A workdir with that state's checkpoint."""
    workdir = tmp_path_factory.mktemp("run")
    with checkpoints.open_checkpoints(workdir) as manager:
        assert checkpoints.save(manager, trained, {"data": {"position": 32}})
        checkpoints.wait(manager)
        assert not checkpoints.save(manager, trained)  # it is there already
    return workdir


@pytest.fixture
def copy(saved, tmp_path):
    """A workdir to spoil."""
    return shutil.copytree(saved, tmp_path / "run")


def assert_equal(ours, theirs):
    ours, theirs = flatten(ours), flatten(theirs)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@pytest.mark.parametrize("sizes", [(8, 1), (1, 8), (2, 4)], ids=str)
def test_state_comes_back_on_another_layout(saved, trained, sizes):
    mesh = sharding.make_mesh(*sizes)
    target, shardings = toy.layout(mesh)
    with checkpoints.open_checkpoints(saved) as manager:
        state, meta = checkpoints.restore_state(manager, target)
    assert_equal(state, trained)
    assert meta == {"step": 2, "data": {"position": 32}}
    jax.tree.map(
        lambda x, s: None if x.sharding == s else pytest.fail(), state, shardings
    )
    assert jax.tree.structure(state) == jax.tree.structure(trained)


def test_layout_of_the_folder(saved):
    step = saved / "checkpoints" / "2"
    items = {"params", "ema", "opt_state", "collections", "meta"}
    assert items <= {path.name for path in step.iterdir()}
    assert checkpoints.all_steps(saved) == [2]


def test_items_load_without_a_target(saved, trained):
    raw = checkpoints.load_params(saved, item="params")
    assert_equal(raw, trained.params)
    averaged = checkpoints.load_params(saved)
    assert_equal(averaged, {**trained.params, **trained.ema})
    assert_equal(checkpoints.load_item(saved, "collections"), trained.collections)
    assert checkpoints.load_meta(saved)["step"] == 2
    leaves = jax.tree.leaves((raw, averaged))
    assert all(type(leaf) is np.ndarray for leaf in leaves)


def test_run_without_ema_or_collections(trained, tmp_path):
    state = trained.replace(ema=None, collections={})
    with checkpoints.open_checkpoints(tmp_path) as manager:
        checkpoints.save(manager, state)
        checkpoints.wait(manager)
        restored, _ = checkpoints.restore_state(manager, jax.eval_shape(lambda: state))
    assert_equal(restored, state)
    assert_equal(checkpoints.load_params(tmp_path, item="ema"), state.params)
    with (
        checkpoints.open_checkpoints(tmp_path) as manager,
        pytest.raises(checkpoints.CheckpointError, match="lacks ema/.*use the config"),
    ):
        checkpoints.restore_state(manager, jax.eval_shape(lambda: trained))


def test_newest_are_kept(trained, tmp_path):
    with checkpoints.open_checkpoints(tmp_path, max_to_keep=2) as manager:
        for step in (3, 20, 100):
            checkpoints.save(manager, trained.replace(step=jnp.int32(step)))
    assert checkpoints.all_steps(tmp_path) == [20, 100]


def test_donated_state_is_saved_as_it_was(tmp_path):
    step, state = jax.jit(toy.step_fn, donate_argnums=0), toy.new_state()
    state, _ = step(state, toy.FROZEN, toy.host_batch(1))
    expected = jax.tree.map(np.array, state)
    with checkpoints.open_checkpoints(tmp_path) as manager:
        checkpoints.save(manager, state)
        for index in range(2, 6):  # while the save goes on
            state, _ = step(state, toy.FROZEN, toy.host_batch(index))
    assert_equal(checkpoints.load_item(tmp_path, "ema"), expected.ema)
    assert_equal(checkpoints.load_item(tmp_path, "params"), expected.params)


def test_leftovers_of_a_killed_save_are_ignored_and_cleared(copy):
    leftover = copy / "checkpoints" / "7.orbax-checkpoint-tmp"
    leftover.mkdir()
    assert checkpoints.all_steps(copy) == [2]
    checkpoints.open_checkpoints(copy).close()
    assert not leftover.exists()


def test_missing_checkpoint_is_named(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no checkpoint in {tmp_path}"):
        checkpoints.load_params(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"step 5 .*there are \[2\]"):
        checkpoints.load_params(saved, step=5)


@pytest.mark.parametrize("spoil", ["truncated", "missing", "metadata"])
def test_damaged_checkpoint_is_one_sentence(copy, spoil):
    step = copy / "checkpoints" / "2"
    if spoil == "truncated":
        for path in step.glob("*/**/d/*"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif spoil == "missing":
        shutil.rmtree(step / "params")
    else:
        (step / "params" / "_METADATA").write_text("{")
    message = r"step 2 in .* cannot be read \(.*\): delete the folder .*/checkpoints/2 "
    with pytest.raises(checkpoints.CheckpointError, match=message) as caught:
        checkpoints.load_params(copy)
    assert "\n" not in str(caught.value)
    target, _ = toy.layout(sharding.make_mesh())
    with (
        checkpoints.open_checkpoints(copy) as manager,
        pytest.raises(checkpoints.CheckpointError, match=message),
    ):
        checkpoints.restore_state(manager, target)


def other_model(shape=(4, toy.WIDTH), dtype=jnp.float32, extra=False):
    """A target that differs in one kernel."""
    target, _ = toy.layout(sharding.make_mesh())
    params = jax.tree.map(lambda x: x, target.params)
    params["generator"]["wide"]["kernel"] = jax.ShapeDtypeStruct(shape, dtype)
    if extra:
        params["generator"]["new"] = jax.ShapeDtypeStruct((1,), dtype)
    return target.replace(params=params)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            {"shape": (4, 64)},
            r"wide/kernel as float32\[4, 128\], but this model has float32\[4, 64\]",
        ),
        (
            {"dtype": jnp.bfloat16},
            r"wide/kernel as float32\[4, 128\], but this model has bfloat16\[4, 128\]",
        ),
        ({"extra": True}, "lacks params/generator/new"),
    ],
    ids=["shape", "dtype", "missing"],
)
def test_checkpoint_of_another_model_names_the_parameter(saved, target, message):
    with (
        checkpoints.open_checkpoints(saved) as manager,
        pytest.raises(checkpoints.CheckpointError, match=message),
    ):
        checkpoints.restore_state(manager, other_model(**target))


def test_full_disk_is_noticed_before_the_save(trained, tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")(2**30, 2**30, 2**10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with (
        checkpoints.open_checkpoints(tmp_path) as manager,
        pytest.raises(
            checkpoints.CheckpointError, match="0 MiB free, but the .* step 2"
        ),
    ):
        checkpoints.save(manager, trained)
    assert checkpoints.all_steps(tmp_path) == []
