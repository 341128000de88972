"""Where the weights of FID's InceptionV3 come from."""

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldm_jax import trees
from ldm_jax.features import batch_norm, inception, search
from ldm_jax.features.base import FeatureNetwork, in_float32, in_groups
from ldm_jax.features.download import Source, fetch
from ldm_jax.features.weight_files import check_sha256, checked, read_state_dict, sha256

# torch-fidelity's conversion of TensorFlow's inception-2015-12-05; pytorch-fid publishes
# the same bytes under another name. 95,628,359 bytes.
INCEPTION_SOURCE = Source(
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
INCEPTION_WEIGHTS = search.Weights(
    what="FID Inception weights",
    option="",
    cache_names=(
        "weights-inception-2015-12-05-6726825d.pth",
        "pt_inception-2015-12-05-6726825d.pth",
    ),
    sources=(INCEPTION_SOURCE,),
)
_EPS = 1e-3

_log = logging.getLogger(__name__)


def find_inception(path: str | os.PathLike | None = None) -> FeatureNetwork:
    """FID's network: the file at `path`, the one in the cache folder, or a download.

    `path` may hold any weights of this network as torch-fidelity names them; results are
    FID's only if `is_published`. What is in the cache folder must be the published file.

    Raises:
      FileNotFoundError: `path` does not exist, or every way failed (`WeightsNotFoundError`).
      ValueError: a file is damaged or holds something else.
    """
    file = search.find_file(INCEPTION_WEIGHTS, path, _download)
    if not path:
        advice = "delete it to have it fetched again"
        check_sha256(file, INCEPTION_SOURCE.sha256, advice)
    return FeatureNetwork(
        name="inception",
        params=from_torch(read_state_dict(file), f"Inception weights {file}"),
        apply=_apply,
        weights_sha256=sha256(file),
        preprocessing=inception.PREPROCESSING,
        published_sha256=INCEPTION_SOURCE.sha256,
    )


def from_torch(
    state: Mapping[str, np.ndarray], source: str = "Inception weights"
) -> dict[str, Any]:
    """Our tree from a state dict of torch-fidelity's FeatureExtractorInceptionV3.

    Raises:
      ValueError: names what is missing or has another shape.
    """
    expected = param_shapes()
    flat = {}
    try:
        for name in {name.rpartition("/")[0] for name in expected}:
            torch_name = name.replace("/", ".")
            if name == "fc":
                layer = {"kernel": state["fc.weight"].T, "bias": state["fc.bias"]}
            else:
                layer = batch_norm.fold(
                    state, f"{torch_name}.conv", f"{torch_name}.bn", _EPS
                )
            flat |= {f"{name}/{leaf}": value for leaf, value in layer.items()}
    except KeyError as error:
        raise ValueError(
            f"{source} lack {error}: give torch-fidelity's or pytorch-fid's file; "
            "torchvision's Inception is another network"
        ) from error
    return checked(flat, expected, source, "is it FID's Inception?")


def param_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters by path, the classifier `fc` among them."""
    image = jax.ShapeDtypeStruct((1, inception.SIZE, inception.SIZE, 3), np.float32)
    tree = jax.eval_shape(inception.Inception().init, jax.random.key(0), image)
    shapes = {name: leaf.shape for name, leaf in trees.flatten(tree["params"]).items()}
    shapes["fc/kernel"] = (2048, inception.NUM_LOGITS)
    shapes["fc/bias"] = (inception.NUM_LOGITS,)
    return shapes


def _download(cache: Path) -> Path:
    _log.info("fetching FID's Inception weights (96 MB, once) into %s", cache)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        file = fetch(INCEPTION_SOURCE, Path(folder))
        return file.replace(cache / file.name)


_apply = in_float32(in_groups(inception.inception_features, 1))
