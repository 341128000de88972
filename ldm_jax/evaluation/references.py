"""Statistics of the real pictures in an .npz, ours and those of other tools.

`mu`, `sigma` (and `mu_s`, `sigma_s` of the spatial features) are the names that
pytorch-fid, clean-fid and ADM use: theirs can be read, and ours read by them. Ours hold
besides: `count`, `recipe` (JSON: source, preprocessing, network, hashes) and, if asked
for, the features themselves as `features_pool`.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.evaluation.extraction import Features
from ldm_jax.evaluation.statistics import Moments

_NAMES = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclass(frozen=True)
class Reference:
    """The real pictures as a metric sees them.

    Attributes:
      features: statistics, and rows of features where they were kept.
      recipe: how they were made; empty if the file does not say.
    """

    features: Features
    recipe: Mapping[str, Any] = field(default_factory=dict)


def write_reference(path: str | os.PathLike, reference: Reference) -> None:
    """Write an .npz that `read_reference` reads; whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        "count": np.int64(reference.features.count),
        "recipe": np.array(json.dumps(dict(reference.recipe), sort_keys=True)),
    }
    for name, moments in reference.features.moments.items():
        mean, covariance = _NAMES[name]
        arrays |= {mean: moments.mean, covariance: moments.covariance}
    for name, rows in reference.features.rows.items():
        arrays[f"features_{name}"] = rows
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / "reference.npz"
        np.savez(part, **arrays)
        os.replace(part, path)


def read_reference(path: str | os.PathLike) -> Reference | None:
    """Read statistics from an .npz; None if it holds pictures alone (`arr_0`).

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is damaged, or holds neither statistics nor pictures.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no reference at {path}: make one with evaluate.py --make_reference={path} "
            "--source=folder:PATH"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = set(archive.files)
            # Not `arr_0`, the pictures, which may be gigabytes.
            arrays = {name: archive[name] for name in names if name != "arr_0"}
    except Exception as error:  # zipfile, zlib, numpy and struct each raise their own
        reason = " ".join(str(error).split())[:200]  # zipfile quotes what it read
        raise ValueError(
            f"the reference {path} cannot be read ({reason}): make it again"
        ) from error
    if not {"mu", "sigma"} <= names:
        if "arr_0" in names:
            return None
        raise ValueError(
            f"{path} is no reference: it holds {', '.join(sorted(names)) or 'nothing'} "
            "where mu and sigma, or pictures as arr_0, should be"
        )
    return _reference(path, arrays)


def _reference(path: Path, arrays: Mapping[str, np.ndarray]) -> Reference:
    count = int(arrays.get("count", 0))
    moments = {}
    for name, (mean, covariance) in _NAMES.items():
        if mean not in arrays or covariance not in arrays:
            continue
        mu, sigma = arrays[mean], arrays[covariance]
        if sigma.shape != (mu.size, mu.size) or not np.isfinite(sigma).all():
            raise ValueError(
                f"the reference {path} is damaged: {covariance} has shape {sigma.shape} "
                f"for {mu.size} features, or values that are not finite; make it again"
            )
        moments[name] = Moments.from_covariance(mu.reshape(-1), sigma, count)
    prefix = "features_"
    rows = {
        name.removeprefix(prefix): rows
        for name, rows in arrays.items()
        if name.startswith(prefix)
    }
    recipe = json.loads(str(arrays["recipe"])) if "recipe" in arrays else {}
    return Reference(Features(moments, rows), recipe)
