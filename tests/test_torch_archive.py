"""Reading torch's files without torch."""

import os
import pickle

import ml_dtypes
import numpy as np
import pytest

from ldm_jax.torch_archive import read_torch_archive

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
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


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
        if name == "bfloat16":
            assert actual.dtype == ml_dtypes.bfloat16
            actual, tensor = actual.astype(np.float32), tensor.float()
        expected = tensor.detach().numpy()
        assert actual.dtype == expected.dtype, name
        np.testing.assert_array_equal(actual, expected)


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


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.pt"):
        read_torch_archive(tmp_path / "absent.pt")
