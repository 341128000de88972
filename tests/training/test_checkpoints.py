"""Checkpoints come back exact, on any layout, and say what is wrong when they cannot."""

import collections
import logging
import os
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from ldm_jax.training import checkpoint_files, checkpoints, checksums, sharding
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


@pytest.mark.parametrize(
    ("spoil", "phrase"),
    [
        ("truncated", r"\S+/d/\w+ is not what was written and \d+ more"),
        ("missing", "params/_METADATA is missing and .*"),
        ("metadata", "params/_METADATA is not what was written"),
    ],
)
def test_damaged_checkpoint_is_one_sentence(copy, spoil, phrase):
    step = copy / "checkpoints" / "2"
    spoil_step(step, spoil)
    message = rf"step 2 in .* is damaged \({phrase}\): put an intact copy in its place"
    with pytest.raises(checkpoints.CheckpointError, match=message) as caught:
        checkpoints.load_params(copy, item="params")
    assert "\n" not in str(caught.value)
    target, _ = toy.layout(sharding.make_mesh())
    with (
        checkpoints.open_checkpoints(copy) as manager,
        pytest.raises(checkpoints.CheckpointError, match=message),
    ):
        checkpoints.restore_state(manager, target, step=2)


@pytest.mark.parametrize("spoil", ["truncated", "missing", "metadata"])
def test_damage_without_sums_is_one_sentence(copy, spoil):
    step = copy / "checkpoints" / "2"
    (step / checksums.FILE_NAME).unlink()  # a checkpoint of an earlier version
    spoil_step(step, spoil)
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


def spoil_step(step, spoil):
    """Damage a checkpoint in one of three ways."""
    if spoil == "truncated":
        for path in step.glob("*/**/d/*"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif spoil == "missing":
        shutil.rmtree(step / "params")
    else:
        (step / "params" / "_METADATA").write_text("{")


def test_only_what_is_read_is_checked(copy):
    step = copy / "checkpoints" / "2"
    shutil.rmtree(step / "opt_state")
    assert checkpoints.load_params(copy).keys() == {"generator", "critic"}
    with pytest.raises(
        checkpoints.CheckpointError, match="opt_state/_METADATA is miss"
    ):
        checkpoints.load_item(copy, "opt_state")


def test_checkpoints_of_earlier_versions_load_with_one_line(copy, trained, caplog):
    (copy / "checkpoints" / "2" / checksums.FILE_NAME).unlink()
    with caplog.at_level(logging.INFO, logger="ldm_jax"):
        assert_equal(checkpoints.load_params(copy, item="params"), trained.params)
        checkpoints.load_meta(copy)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "no checksums" in caplog.text


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


def restored(workdir):
    """The state that a run in `workdir` would go on from."""
    target, _ = toy.layout(sharding.make_mesh(devices=jax.devices()[:1]))
    with checkpoints.open_checkpoints(workdir) as manager:
        return checkpoints.restore_state(manager, target)[0]


@pytest.fixture
def three_steps(trained, tmp_path):
    """A workdir with checkpoints of steps 3, 6 and 9."""
    with checkpoints.open_checkpoints(tmp_path) as manager:
        for step in (3, 6, 9):
            checkpoints.save(manager, trained.replace(step=jnp.int32(step)))
    return tmp_path


def flip_a_byte(workdir, step, item="opt_state"):
    """In the largest file of an item."""
    files = (workdir / "checkpoints" / str(step) / item).rglob("d/*")
    path = max(files, key=lambda file: file.stat().st_size)
    spoilt = bytearray(path.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    path.write_bytes(spoilt)


def test_training_falls_back_to_the_newest_intact_checkpoint(three_steps, caplog):
    flip_a_byte(three_steps, 9)
    flip_a_byte(three_steps, 6)
    assert restored(three_steps).step == 3
    assert checkpoints.all_steps(three_steps) == [3]
    names = {path.name for path in (three_steps / "checkpoints").iterdir()}
    assert names == {"3", "6.damaged", "9.damaged"}
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 2 and "step 9" in warnings[0] and "step 6" in warnings[1]
    assert "goes on from step 3" in warnings[0] and "opt_state/" in warnings[0]


def test_a_step_that_was_damaged_is_saved_again(three_steps, trained):
    for aside in ("9.damaged", "9.damaged.2"):
        flip_a_byte(three_steps, 9)
        with checkpoints.open_checkpoints(three_steps) as manager:
            assert manager.newest_intact() == 6
            assert manager.all_steps() == [3, 6]
            assert checkpoints.save(manager, trained.replace(step=jnp.int32(9)))
        assert (three_steps / "checkpoints" / aside).is_dir()
        assert restored(three_steps).step == 9


def test_if_all_are_damaged_none_is_moved_and_all_are_named(three_steps):
    for step in (3, 6, 9):
        flip_a_byte(three_steps, step)
    message = "every checkpoint .* is damaged .9: opt_state/.*; 6: .*; 3: .*start anew"
    with pytest.raises(checkpoints.CheckpointError, match=message):
        restored(three_steps)
    assert checkpoints.all_steps(three_steps) == [3, 6, 9]


def test_readers_refuse_damage_and_name_the_step_that_is_intact(three_steps):
    flip_a_byte(three_steps, 9, "ema")
    flip_a_byte(three_steps, 6)
    for step in (None, 9):
        with pytest.raises(checkpoints.CheckpointError, match="use step 3, which is"):
            checkpoints.load_params(three_steps, step=step)
    assert checkpoints.load_meta(three_steps, step=3)["step"] == 3
    assert checkpoints.all_steps(three_steps) == [3, 6, 9]


def test_sums_go_with_the_checkpoints_that_are_no_longer_kept(trained, tmp_path):
    with checkpoints.open_checkpoints(tmp_path, max_to_keep=1) as manager:
        for step in (1, 2, 3):
            checkpoints.save(manager, trained.replace(step=jnp.int32(step)))
    sums = list(tmp_path.rglob(f"{checksums.FILE_NAME}*"))
    assert sums == [tmp_path / "checkpoints" / "3" / checksums.FILE_NAME]
    assert checksums.find_damage(sums[0].parent) == ()


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


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if os.getuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small disk needs root")
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("notice", ["before the save", "while saving"])
def test_a_full_disk_costs_checkpoints_but_not_the_run(
    trained, small_disk, notice, monkeypatch, caplog
):
    monkeypatch.setattr(checkpoint_files, "RESERVE_BYTES", 0)
    if notice == "while saving":  # as when others fill it at the same time
        monkeypatch.setattr(checkpoint_files, "check_free_space", lambda *args: None)
    weight = np.random.default_rng(0).normal(size=2**20).astype(np.float32)  # 4 MiB
    wide = trained.replace(params={**trained.params, "wide": {"w": weight}})
    junk = small_disk / "junk"
    with checkpoints.open_checkpoints(small_disk) as manager:
        assert checkpoints.save(manager, wide.replace(step=jnp.int32(1)))
        checkpoints.wait(manager)
        free = shutil.disk_usage(small_disk).free
        junk.write_bytes(bytes(free - 2**21))
        for step in (2, 3):
            checkpoints.save_if_possible(manager, wide.replace(step=jnp.int32(step)))
        with pytest.raises(checkpoints.DiskFullError, match="step 4 "):
            checkpoints.save(manager, wide.replace(step=jnp.int32(4)))
            checkpoints.wait(manager)
        assert shutil.disk_usage(small_disk).free > 2**20  # nothing half-written stays
        warnings = [r.getMessage() for r in caplog.records if "MiB" in r.getMessage()]
        first, second = warnings[:2]
        assert "step 2 " in first and "step 3 " in second and "4 MiB" in first
        junk.unlink()
        assert checkpoints.save_if_possible(manager, wide.replace(step=jnp.int32(5)))
    assert checkpoints.all_steps(small_disk) == [1, 5]
    for step in (1, 5):
        stored = checkpoints.load_item(small_disk, "params", step=step)
        np.testing.assert_array_equal(stored["wide"]["w"], weight)
