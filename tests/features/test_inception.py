"""FID's Inception against torch-fidelity, with random weights and real images."""

import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.datasets import emoji64
from ldm_jax.features import find_network

torch = pytest.importorskip("torch")

from tests.parity.torch_inception import random_network

THEIR_NAMES = {
    "pool": "2048",
    "logits": "logits_unbiased",
    "logits_biased": "logits",
    "spatial": "spatial",
    "pool_64": "64",
    "pool_192": "192",
    "pool_768": "768",
}


@pytest.fixture(scope="module")
def images():
    """Pictures of an odd size, uint8 [2, 61, 47, 3]."""
    with zipfile.ZipFile(emoji64.ARCHIVE) as archive:
        names = sorted(archive.namelist())
        files = [archive.open(n) for n in names if n.endswith(".webp")][:2]
        pictures = [Image.open(file).convert("RGB").resize((47, 61)) for file in files]
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.fixture(scope="module")
def network_and_theirs(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    theirs = random_network(path, images)
    return find_network("inception", path), theirs


@pytest.fixture(scope="module")
def network(network_and_theirs):
    return network_and_theirs[0]


@pytest.fixture(scope="module")
def ours(network, images):
    return jax.jit(network.apply)(network.params, images)


@pytest.mark.parametrize("name", THEIR_NAMES)
def test_features_equal_torch_fidelitys(name, ours, network_and_theirs):
    expected = network_and_theirs[1][THEIR_NAMES[name]]
    assert ours[name].dtype == np.float32
    np.testing.assert_allclose(ours[name], expected, atol=1e-4)
    assert expected.std(axis=0).max() > 0.02  # images differ by far more than that


def test_spatial_features_are_17_rows_17_columns_7_channels(ours):
    assert ours["spatial"].shape == (2, 2023)


def test_weights_of_another_source_are_not_the_published_ones(network):
    assert not network.is_published
    assert len(network.weights_sha256) == 64


def test_products_are_exact_whatever_the_backend_prefers(network):
    pixels = jax.ShapeDtypeStruct((1, 64, 64, 3), np.uint8)
    with jax.default_matmul_precision("bfloat16"):
        program = str(jax.make_jaxpr(network.apply)(network.params, pixels))
    assert "Precision.HIGHEST" in program and "Precision.DEFAULT" not in program
    assert "bf16" not in program and "bfloat16" not in program.lower()
