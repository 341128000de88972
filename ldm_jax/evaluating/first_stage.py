"""Evaluation of a first stage: its reconstructions against the originals."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ldm_jax import build
from ldm_jax import config as config_lib
from ldm_jax.arrays import image_to_pixels, pixels_to_image
from ldm_jax.data.transforms import SquareImage
from ldm_jax.evaluating.picture_sets import PictureSet
from ldm_jax.evaluating.picture_stream import Hashed, shown
from ldm_jax.evaluating.samples import Report, network_recipe
from ldm_jax.evaluation import sample_metrics
from ldm_jax.evaluation.bootstrap import mean_interval
from ldm_jax.evaluation.codebook import codebook_usage
from ldm_jax.evaluation.extraction import Accumulator, extract_fn
from ldm_jax.evaluation.image_quality import psnr, ssim
from ldm_jax.evaluation.sample_metrics import Result, check_names
from ldm_jax.evaluation.statistics import gather, gather_rows
from ldm_jax.features.base import FeatureNetwork
from ldm_jax.features.lpips import lpips
from ldm_jax.nn.jit import jit
from ldm_jax.training import checkpoints

PyTree = Any

PER_PICTURE = ("psnr", "ssim", "lpips")
FEATURE_METRICS = {"rfid": "fid", "ris": "is"}  # and what they are of samples
METRICS = (*FEATURE_METRICS, *PER_PICTURE, "codebook")
DEFAULT_METRICS = ("rfid", *PER_PICTURE)


@dataclasses.dataclass(frozen=True)
class FirstStage:
    """A trained autoencoder.

    Attributes:
      config: what it was trained with.
      module: the linen module.
      params: its parameters, averaged if the run kept averages.
      step: training steps done.
    """

    config: ConfigDict
    module: Any
    params: PyTree
    step: int

    @property
    def transform(self) -> SquareImage:
        """How its training pictures were made square, without chance."""
        data = self.config.data
        return SquareImage(data.image_size, resize=data.resize)


def load_first_stage(workdir: str | Path, *, step: int | None = None) -> FirstStage:
    """Load the autoencoder of a run of train.py.

    Raises:
      FileNotFoundError, ValueError: one sentence: missing, damaged, or another model.
    """
    workdir = Path(workdir)
    config = config_lib.load(workdir / "config.json")
    if config.get("task") != "autoencoding":
        raise ValueError(
            f"{workdir} holds a latent diffusion model: give the workdir of its first "
            "stage, config.autoencoder.checkpoint, or evaluate it with --checkpoint"
        )
    params = checkpoints.load_params(workdir, step=step, groups=("autoencoder",))
    meta = checkpoints.load_meta(workdir, step=step)
    module = build.autoencoder(config)
    return FirstStage(config, module, params["autoencoder"], int(meta["step"]))


def evaluate_first_stage(
    first_stage: FirstStage,
    pictures: PictureSet,
    *,
    network: FeatureNetwork | None = None,
    lpips_params: PyTree = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    batch_size: int = 32,
) -> Report:
    """Reconstructions through the mode of the latent against the originals.

    PSNR, SSIM and LPIPS compare float images in [-1, 1]; rFID compares 8-bit pixels.

    Args:
      network: for rfid and ris.
      lpips_params: for lpips, see `find_lpips_weights`.

    Raises:
      ValueError: if a metric does not fit the model, or lacks its network.
    """
    check(metrics, first_stage, network, pictures.image_size)
    started = time.monotonic()
    hashed = Hashed(shown(pictures.batches(batch_size), pictures.count, "pictures"))
    reconstruct = _reconstruct_fn(first_stage, metrics, lpips_params)
    num_codes = getattr(first_stage.module, "num_embeddings", 0)
    totals = _Totals(metrics, network, batch_size, num_codes)
    for pixels in hashed:
        totals.add(pixels, reconstruct(pixels, batch_size))
    result = totals.result()
    samples = pictures.protocol | {"reconstruction": "of the latent's mode"}
    if jax.process_count() == 1:
        samples["pixels_sha256"] = hashed.sha256
    protocol: dict[str, Any] = {
        "autoencoder": {"checkpoint_step": first_stage.step},
        "samples": samples,
    }
    if network is not None:
        protocol["network"] = network_recipe(network)
    speed = pictures.count / (time.monotonic() - started)
    return Report(result, protocol, speed)


def check(
    metrics: Sequence[str],
    first_stage: FirstStage,
    network: FeatureNetwork | None,
    image_size: tuple[int, int],
) -> None:
    """Refuse what cannot be computed, before any work.

    Raises:
      ValueError: one sentence.
    """
    check_names(metrics, METRICS)
    if "codebook" in metrics and not hasattr(first_stage.module, "code_indices"):
        raise ValueError(
            "codebook usage needs a vector-quantised first stage, and this one is "
            f"{first_stage.config.autoencoder.name!r}: leave it out"
        )
    f = first_stage.module.downsampling_factor
    if any(size % f for size in image_size):
        raise ValueError(
            f"pictures of {image_size[0]}x{image_size[1]} do not fit this first stage: "
            f"give --image_size as a multiple of {f}"
        )
    if set(metrics) & set(FEATURE_METRICS) and network is None:
        raise ValueError("rfid and ris need a feature network: give --network")


def _reconstruct_fn(
    first_stage: FirstStage, metrics: Sequence[str], lpips_params: PyTree
) -> Callable[[np.ndarray, int], dict[str, np.ndarray]]:
    """Pixels to reconstructed pixels, values per picture and codes."""
    module, chosen = first_stage.module, set(metrics)

    @jit
    def reconstruct(params: PyTree, frozen: PyTree, pixels: jax.Array):
        image = pixels_to_image(pixels)
        made = build.reconstruct(module, params, image)
        found = {"pixels": image_to_pixels(made)}
        compared = {"psnr": psnr, "ssim": ssim, "lpips": partial(lpips, frozen)}
        found |= {n: f(made, image) for n, f in compared.items() if n in chosen}
        if "codebook" in chosen:
            apply = partial(module.apply, {"params": params})
            z = apply(image, method="encode").mode()
            codes = apply(z, method="code_indices")
            found["codes"] = codes.astype(jnp.int32).reshape(len(pixels), -1)
        return found

    params = jax.device_put(first_stage.params)
    frozen = jax.device_put(lpips_params)

    def padded(pixels: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
        batch = np.resize(pixels, (batch_size, *pixels.shape[1:]))
        found = reconstruct(params, frozen, batch)
        return {name: np.asarray(x)[: len(pixels)] for name, x in found.items()}

    return padded


class _Totals:
    """What is summed over the batches."""

    def __init__(
        self,
        metrics: Sequence[str],
        network: FeatureNetwork | None,
        batch_size: int,
        num_codes: int,
    ):
        self._metrics, self._network = metrics, network
        self._values: dict[str, list[np.ndarray]] = {}
        self._codes = np.zeros(num_codes, np.int64)
        self._extract = None
        if network is not None and set(metrics) & set(FEATURE_METRICS):
            self._extract = extract_fn(network, batch_size)
        keep = ("logits",) if "ris" in metrics else ()
        self._real, self._fake = Accumulator(), Accumulator(keep)

    def add(self, pixels: np.ndarray, found: Mapping[str, np.ndarray]) -> None:
        for name in PER_PICTURE:
            if name in found:
                self._values.setdefault(name, []).append(found[name])
        if "codes" in found:
            codes = found["codes"].ravel()
            self._codes += np.bincount(codes, minlength=len(self._codes))
        if self._extract is not None:
            self._real.add(self._extract(pixels))
            self._fake.add(self._extract(found["pixels"]))

    def result(self) -> Result:
        result = Result()
        if self._extract is not None and self._network is not None:
            result = self._of_features(self._network)
        for name in self._metrics:
            if name in self._values:
                values = np.concatenate(self._values[name])
                if jax.process_count() > 1:
                    values = gather_rows(values[:, None])[:, 0]
                result.values[name] = float(values.mean(dtype=np.float64))
                result.values[f"{name}_std"] = float(values.std(dtype=np.float64))
                result.intervals[name] = mean_interval(values)
        if "codebook" in self._metrics:
            counts = gather(self._codes.astype(np.float64)).sum(axis=0)
            usage = codebook_usage(counts)
            result.values["codebook_share"] = usage.share
            result.values["codebook_perplexity"] = usage.perplexity
        return result

    def _of_features(self, network: FeatureNetwork) -> Result:
        chosen = [v for k, v in FEATURE_METRICS.items() if k in self._metrics]
        found = sample_metrics.compute(
            chosen,
            real=self._real.result(),
            fake=self._fake.result(),
            network=network,
        )
        found.values = {f"r{name}": value for name, value in found.values.items()}
        return found
