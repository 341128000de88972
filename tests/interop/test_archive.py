"""Opening checkpoints of every kind, and writing safetensors."""

import argparse
import collections
import json
import pathlib
import sys
import types

import ml_dtypes
import numpy as np
import pytest
from archive_files import FORMATS, save, tensors

from ldm_jax.interop.archive import (
    LazyTensors,
    count_nonfinite,
    open_checkpoint,
    write_safetensors,
)
from ldm_jax.lazy_array import LazyArray

torch = pytest.importorskip("torch")


def assert_equal(actual, expected):
    """The same type and the same bits as torch's tensor."""
    if expected.dtype == torch.bfloat16:
        assert actual.dtype == ml_dtypes.bfloat16
        actual, expected = actual.view(np.int16), expected.view(torch.int16)
    assert actual.dtype == expected.numpy().dtype
    np.testing.assert_array_equal(actual, expected.numpy())


@pytest.mark.parametrize("layout", FORMATS)
def test_every_format_gives_torchs_tensors(tmp_path, layout):
    checkpoint = open_checkpoint(save(tensors(), tmp_path / "model", layout))
    assert checkpoint.format == layout
    assert sorted(checkpoint.tensors) == sorted(tensors())
    assert len(checkpoint.tensors) == len(tensors())
    for name, expected in tensors().items():
        dtype, shape = checkpoint.tensors.info(name)
        actual = checkpoint.tensors[name]
        assert (actual.dtype, actual.shape) == (dtype, shape)
        assert_equal(actual, expected)
    assert "nothing" not in checkpoint.tensors
    with pytest.raises(KeyError):
        checkpoint.tensors["nothing"]


def test_the_content_decides_and_not_the_name(tmp_path):
    path = save(tensors(), tmp_path / "model.ckpt", "safetensors")
    assert open_checkpoint(path).format == "safetensors"


def test_tensors_under_a_prefix(tmp_path):
    state = {
        "model_ema.a": torch.ones(1),
        "model.a": torch.zeros(2),
        "b": torch.ones(3),
    }
    opened = open_checkpoint(save(state, tmp_path / "f", "torch zip")).tensors
    assert list(opened.under("model.")) == ["a"]
    np.testing.assert_array_equal(opened.under("model.")["a"], np.zeros(2))


# --- what Lightning saves beside the weights ---

TOUCHED = []


class Framework:
    """Imitates the frameworks' classes; says so when one of its methods runs."""

    def __init__(self, *args):
        self.args = args

    def __getstate__(self):
        return {"args": self.args}

    def __setstate__(self, state):
        TOUCHED.append(state)


@pytest.fixture
def framework(monkeypatch):
    """Makes a class that pickles as `module.name`, and unmakes it before reading."""

    def make(module, name, base=Framework):
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            made = types.ModuleType(".".join(parts[:count]))
            monkeypatch.setitem(sys.modules, made.__name__, made)
        made_class = type(name, (base,), {"__module__": module})
        setattr(sys.modules[module], name, made_class)
        return made_class

    return make


def lightning_extras(framework):
    """What pytorch-lightning 1.4 and its configs leave in a published checkpoint."""
    callback = framework(
        "pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"
    )
    attributes = framework("pytorch_lightning.utilities.parsing", "AttributeDict", dict)
    config = framework("omegaconf.dictconfig", "DictConfig")
    return {
        "epoch": 12,
        "global_step": np.int64(470000),
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {callback: {"best_model_score": torch.tensor(0.5), "path": "x"}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(4)}}}],
        "lr_schedulers": [{"base_lrs": [1e-4], "lr_lambdas": [{}]}],
        "hyper_parameters": attributes(config=config(1, [2]), lr=np.float64(1e-4)),
        "others": [torch.Size([1]), torch.device("cpu"), torch.float16, torch.strided],
        "more": [{1, 2}, collections.defaultdict(list), argparse.Namespace(a=1)],
        "paths": [pathlib.PosixPath("a"), np.random.RandomState(0).get_state()],
    }


@pytest.mark.parametrize("layout", FORMATS[:2])
def test_lightnings_extras_are_known_but_neither_imported_nor_run(
    tmp_path, framework, layout
):
    extras = lightning_extras(framework)
    content = {"state_dict": {**tensors(), "note": "x"}, **extras}
    path = save(content, tmp_path / "last.ckpt", layout)
    for name in ("pytorch_lightning", "omegaconf"):
        for module in [m for m in sys.modules if m.startswith(name)]:
            del sys.modules[module]
    checkpoint = open_checkpoint(path)
    assert sorted(checkpoint.tensors) == sorted(tensors())
    meta = checkpoint.meta
    assert (meta.step, meta.epoch, meta.lightning_version) == (470000, 12, "1.4.2")
    assert meta.extras == tuple(extras)
    assert meta.skipped == ("note",)
    assert not TOUCHED
    assert not [
        m for m in sys.modules if m.startswith(("pytorch_lightning", "omegaconf"))
    ]


@pytest.mark.parametrize("layout", FORMATS[:2])
def test_classes_of_other_packages_are_refused_by_name(tmp_path, framework, layout):
    foreign = framework("pytorch_lightning_evil.callbacks", "Callback")
    content = {"state_dict": tensors(), "callbacks": foreign()}
    path = save(content, tmp_path / "last.ckpt", layout)
    with pytest.raises(ValueError, match="pytorch_lightning_evil.callbacks.Callback"):
        open_checkpoint(path)


@pytest.mark.parametrize(("value", "step"), [
    (7, 7), (torch.tensor(7), 7), (np.int32(7), 7), (True, None), ("7", 7), (None, None),
    (torch.ones(2), None), (1.5, None),
])  # fmt: skip
def test_the_step_is_read_in_all_its_forms(tmp_path, value, step):
    content = {"state_dict": tensors(), "global_step": value}
    path = save(content, tmp_path / "f.ckpt", "torch zip")
    assert open_checkpoint(path).meta.step == step


def test_tensors_on_the_top_level_go_without_state_dict(tmp_path):
    content = {**tensors(), "global_step": 3, "note": "x"}
    checkpoint = open_checkpoint(save(content, tmp_path / "f.pt", "torch zip"))
    assert sorted(checkpoint.tensors) == sorted(tensors())
    assert checkpoint.meta.step == 3
    assert checkpoint.meta.extras == ("global_step", "note")


# --- component folders ---


@pytest.mark.parametrize(("names", "variant", "taken"), [
    (["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"], "", 0),
    (["pytorch_model.bin", "model.safetensors"], "", 1),
    (["pytorch_model.bin"], "", 0),
    (["model.fp16.safetensors", "model.safetensors"], "", 1),
    (["model.fp16.safetensors", "model.safetensors"], "fp16", 0),
    (["diffusion_pytorch_model.fp16.bin"], "", 0),
    (["diffusion_pytorch_model.non_ema.safetensors", "config.json"], "", 0),
])  # fmt: skip
def test_which_file_of_a_folder_is_read(tmp_path, names, variant, taken):
    for index, name in enumerate(names):
        layout = "safetensors" if name.endswith("safetensors") else "torch zip"
        save({"index": torch.tensor(index)}, tmp_path / name, layout)
    checkpoint = open_checkpoint(tmp_path, variant)
    assert checkpoint.tensors["index"] == taken
    assert checkpoint.files == (tmp_path / names[taken],)


@pytest.mark.parametrize("index_name", [
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.fp16.safetensors.index.json",
])  # fmt: skip
def test_shards_are_one_state_dict(tmp_path, index_name):
    shards = {"a.safetensors": {"x": torch.ones(1)},
              "b.safetensors": {"y": torch.zeros(2), "z": torch.ones(3)}}  # fmt: skip
    for file, content in shards.items():
        save(content, tmp_path / file, "safetensors")
    places = {name: file for file, content in shards.items() for name in content}
    (tmp_path / index_name).write_text(json.dumps({"weight_map": places}))
    checkpoint = open_checkpoint(tmp_path)
    assert {n: t.shape for n, t in checkpoint.tensors.items()} == {
        "x": (1,), "y": (2,), "z": (3,)
    }  # fmt: skip
    assert len(checkpoint.files) == 2


def shards_index(folder, places):
    file = folder / "model.safetensors.index.json"
    file.write_text(places if isinstance(places, str) else json.dumps(places))


@pytest.mark.parametrize(("places", "message"), [
    ({"weight_map": {"x": "../a.safetensors"}}, "not in the same folder"),
    ({"weight_map": {"x": "a.safetensors", "y": "a.safetensors"}}, "lacks 'y'"),
    ({"weight_map": {"x": "absent.safetensors"}}, "absent.safetensors"),
    ({"weight_map": {"x": 1}}, "not a readable index"),
    ({"metadata": {}}, "not a readable index"),
    ("[", "not a readable index"),
    ("[" * 100_000, "not a readable index"),
])  # fmt: skip
def test_a_broken_index_is_named(tmp_path, places, message):
    folder = tmp_path / "unet"
    folder.mkdir()
    save({"x": torch.ones(1)}, folder / "a.safetensors", "safetensors")
    save({"x": torch.ones(1)}, tmp_path / "a.safetensors", "safetensors")
    shards_index(folder, places)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        open_checkpoint(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_folders_without_one_answer_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no weights in the folder .*config.json"):
        open_checkpoint(tmp_path)
    for variant in ("fp16", "non_ema"):
        file = tmp_path / f"diffusion_pytorch_model.{variant}.safetensors"
        save({"x": torch.ones(1)}, file, "safetensors")
    with pytest.raises(ValueError, match="the variants fp16, non_ema"):
        open_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="no weights of variant bf16 in"):
        open_checkpoint(tmp_path, "bf16")


def test_a_pipeline_is_pointed_to_its_components(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="is a whole pipeline: give one of its"):
        open_checkpoint(tmp_path)


# --- writing ---


@pytest.mark.parametrize("layout", FORMATS)
def test_what_is_written_is_what_safetensors_and_torch_read(tmp_path, layout):
    from safetensors.torch import load_file

    opened = open_checkpoint(save(tensors(), tmp_path / "in", layout)).tensors
    out = tmp_path / "out.safetensors"
    write_safetensors(out, opened, {"step": "12"})
    loaded = load_file(out)
    assert sorted(loaded) == sorted(tensors())
    for name, expected in tensors().items():
        assert torch.equal(loaded[name], expected) and (
            loaded[name].dtype == expected.dtype
        )
    assert [p.name for p in tmp_path.iterdir() if p.name != "in"] == ["out.safetensors"]
    again = open_checkpoint(out)
    assert (
        again.meta.metadata == {"format": "pt", "step": "12"} and again.meta.step == 12
    )


def test_arrays_and_lazy_arrays_can_be_written(tmp_path):
    reads = []

    def read():
        reads.append(1)
        return np.arange(3, dtype=np.float16)

    entries = {
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "big-endian": np.arange(3, dtype=">i4"),
        "number": np.float32(2.5),
        "lazy": LazyArray((3,), np.dtype(np.float16), read),
        "é \"'": np.ones(1, ml_dtypes.float8_e4m3fn),
    }
    out = tmp_path / "out.safetensors"
    write_safetensors(out, LazyTensors({"lazy": entries["lazy"]}))
    write_safetensors(out, entries)
    assert len(reads) == 2
    opened = open_checkpoint(out).tensors
    for name, expected in entries.items():
        np.testing.assert_array_equal(opened[name], np.asarray(expected), err_msg=name)


def test_the_data_of_every_type_is_aligned(tmp_path):
    entries = {"odd": np.ones(3, np.int8), "wide": np.ones(2), "half": np.ones(1, "f2")}
    out = tmp_path / "out.safetensors"
    write_safetensors(out, entries)
    size = int.from_bytes(out.read_bytes()[:8], "little")
    header = json.loads(out.read_bytes()[8 : 8 + size])
    starts = {n: header[n]["data_offsets"][0] + 8 + size for n in entries}
    assert (8 + size) % 8 == starts["wide"] % 8 == starts["half"] % 2 == 0


def failing():
    raise RuntimeError("the disk of the source is gone")


@pytest.mark.parametrize(("entry", "error"), [
    (np.array([1j]), "type complex128 is not in the format"),
    (np.array(["a"]), "is not in the format"),
    (LazyArray((2,), np.dtype("f4"), lambda: np.ones(3, "f4")), r"announced as .* \(2,\)"),
    (LazyArray((2,), np.dtype("f4"), lambda: np.ones(2)), "but is float64"),
    (LazyArray((2,), np.dtype("f4"), failing), "is gone"),
])  # fmt: skip
def test_a_failed_write_leaves_the_old_file(tmp_path, entry, error):
    out = tmp_path / "out.safetensors"
    write_safetensors(out, {"old": np.ones(1)})
    with pytest.raises((ValueError, RuntimeError), match=error):
        write_safetensors(out, {"a": np.ones(1), "b": entry})
    assert list(open_checkpoint(out).tensors) == ["old"]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(("values", "dtype", "count"), [
    ([1, np.nan, -np.inf, 0], np.float32, 2),
    ([1, np.nan, -np.inf, 0], np.float16, 2),
    ([1, np.nan, -np.inf, 0], ml_dtypes.bfloat16, 2),
    ([1, np.nan], ml_dtypes.float8_e4m3fn, 1),
    ([1, complex(0, np.inf)], np.complex64, 1),
    ([1, 2], np.int64, 0),
    ([True], bool, 0),
    ([], np.float32, 0),
])  # fmt: skip
def test_nonfinite_values_are_counted(values, dtype, count):
    assert count_nonfinite(np.array(values).astype(dtype)) == count
    assert count_nonfinite(np.array(values).astype(dtype).reshape(1, -1).T) == count


def test_nonfinite_values_are_counted_in_every_piece():
    array = np.zeros((1 << 20) + 5, np.float32)
    array[[0, (1 << 20) - 1, 1 << 20, -1]] = np.nan
    assert count_nonfinite(array) == 4
