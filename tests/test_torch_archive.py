"""Reading torch's files without torch."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from ldm_jax.safe_pickle import UnsafePickleError
from ldm_jax.stored_tensor import Storage, StoredTensor
from ldm_jax.torch_archive import open_torch_archive, read_torch_archive

torch = pytest.importorskip("torch")

LAYOUTS = pytest.mark.parametrize("zipped", [True, False])


def tensors():
    base = torch.arange(24, dtype=torch.float32)
    return {
        "float": base.reshape(2, 3, 4),
        "shared and transposed": base.reshape(4, 6).T[1:, ::2],
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "double": base.double(),
        "int64": torch.tensor(-5),
        "uint8": torch.tensor([255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "complex": torch.tensor([1 + 2j]),
        "uint16": torch.tensor([65535], dtype=torch.uint16),
        "float8": torch.tensor([0.5, -448.0]).to(torch.float8_e4m3fn),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "tensor with an attribute": with_attribute(torch.ones(2)),
        "parameter with an attribute": with_attribute(torch.nn.Parameter(base[:2])),
    }


def with_attribute(tensor):
    tensor.origin = "here"
    return tensor


def save(content, path, *, zipped):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@LAYOUTS
def test_tensors_equal_torchs_in_values_shapes_and_types(tmp_path, zipped):
    content = {"state_dict": tensors(), "global_step": 3, "name": "x"}
    loaded = read_torch_archive(save(content, tmp_path / "f.pt", zipped=zipped))
    assert loaded["global_step"] == 3 and loaded["name"] == "x"
    for name, tensor in tensors().items():
        actual = loaded["state_dict"][name]
        assert actual.shape == tuple(tensor.shape), name
        if name in ("bfloat16", "float8"):
            kinds = {"bfloat16": ml_dtypes.bfloat16, "float8": ml_dtypes.float8_e4m3fn}
            assert actual.dtype == kinds[name]
            actual, tensor = actual.astype(np.float32), tensor.float()
        expected = tensor.detach().numpy()
        assert actual.dtype == expected.dtype, name
        np.testing.assert_array_equal(actual, expected)


@LAYOUTS
def test_opening_reads_no_tensor_and_each_read_gives_a_new_array(tmp_path, zipped):
    path = save({"x": torch.arange(6.0).reshape(2, 3)}, tmp_path / "f", zipped=zipped)
    stored = open_torch_archive(path).content["x"]
    assert isinstance(stored, StoredTensor)
    assert (stored.shape, stored.dtype) == ((2, 3), np.float32)
    first, second = stored.read(), stored.read()
    first[:] = 0
    assert stored.nbytes == np.asarray(stored).nbytes == 24
    np.testing.assert_array_equal(second, np.arange(6.0).reshape(2, 3))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        stored.read()


@LAYOUTS
def test_containers_stay_shared_and_may_hold_themselves(tmp_path, zipped):
    inner = [torch.ones(1)]
    content = {"a": inner, "b": inner, "pair": (inner, None)}
    content["self"] = content
    loaded = read_torch_archive(save(content, tmp_path / "f", zipped=zipped))
    assert loaded["a"] is loaded["b"] is loaded["pair"][0]
    assert loaded["self"] is loaded


@LAYOUTS
def test_a_whole_saved_model_is_refused_by_the_name_of_its_class(tmp_path, zipped):
    path = save(torch.nn.Linear(2, 2), tmp_path / "f", zipped=zipped)
    with pytest.raises(UnsafePickleError, match="torch.nn.modules.linear.Linear") as e:
        read_torch_archive(path)
    assert "save its state_dict alone" in str(e.value)


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path):
    path = save({"x": torch.ones(1000)}, tmp_path / "f.pt", zipped=True)
    data = bytearray(path.read_bytes())
    data[data.index(torch.ones(1000).numpy().tobytes()) + 2000] ^= 1
    path.write_bytes(data)
    stored = open_torch_archive(path).content["x"]
    with pytest.raises(ValueError, match="f.pt is damaged"):
        stored.read()


def test_archives_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = save({"x": torch.ones(1000)}, tmp_path / "f.pt", zipped=True)
    finally:
        torch.serialization.set_crc32_options(True)
    np.testing.assert_array_equal(read_torch_archive(path)["x"], np.ones(1000))


class Loud:
    """Unpickling it would call `os.system`."""

    def __reduce__(self):
        return os.system, ("false",)


@LAYOUTS
def test_code_is_refused_by_name(tmp_path, zipped):
    path = save({"x": Loud()}, tmp_path / "f.pt", zipped=zipped)
    with pytest.raises(ValueError, match=r"refused to load (posix|nt)\.system from"):
        read_torch_archive(path)


@LAYOUTS
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.95])
def test_a_truncated_file_is_named(tmp_path, zipped, kept):
    path = save({"x": torch.ones(1000)}, tmp_path / "cut.pt", zipped=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ValueError, match="cut.pt is not a readable torch file"):
        read_torch_archive(path)


def test_a_plain_pickle_is_not_a_torch_file(tmp_path):
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(ValueError, match="not a readable torch file"):
        read_torch_archive(path)


def test_a_tensor_that_reaches_outside_its_storage_is_refused(tmp_path):
    path = save({"x": torch.ones(300)}, tmp_path / "f.pt", zipped=False)
    data = path.read_bytes()
    # 300 stands three times, as BININT2: storage size, tensor size; enlarge the last.
    at = data.rindex(b"M\x2c\x01\x85")
    path.write_bytes(data[:at] + b"M\x2d\x01\x85" + data[at + 4 :])
    with pytest.raises(ValueError, match="outside its storage"):
        read_torch_archive(path)


@LAYOUTS
def test_a_tensor_with_more_elements_than_its_storage_is_refused(tmp_path, zipped):
    huge = torch.ones(1).expand(10**12)  # stride 0: four terabytes when read
    path = save({"x": huge}, tmp_path / "f.pt", zipped=zipped)
    with pytest.raises(ValueError, match="larger than its storage"):
        read_torch_archive(path)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((2, 3), (3,), 0),
        ((-1, 3), (3, 1), 0),
        ((2.0, 3), (3, 1), 0),
        ((2, 3), (3, 1), 1),
        ((2, 3), (4, 1), 0),
        ((0, 2**61, 2**61), None, 0),
        ((1,) * 40, None, 0),
    ],
)
def test_a_stored_tensor_must_make_sense(shape, strides, offset):
    storage = Storage(Path("f"), nbytes=24)
    with pytest.raises(ValueError, match="a tensor (has|reaches|is)"):
        StoredTensor(storage, np.dtype("f4"), shape, offset, strides)


def test_the_names_that_torch_wrote_are_read_with_their_order(tmp_path):
    names = [f"{i % 7}.{i}" for i in range(50)]
    model = OrderedDict((name, torch.zeros(1)) for name in names)
    path = save(model, tmp_path / "f.pt", zipped=True)
    assert list(open_torch_archive(path).content) == names


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.pt"):
        read_torch_archive(tmp_path / "absent.pt")
