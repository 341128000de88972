"""The console scripts: `ldm-train` is `python train.py`, from any folder.

Each runs the very file of the checkout, or the copy of it that a wheel carries.
"""

import runpy
import sys

from ldm_jax import shipped


def train() -> None:
    """Run train.py."""
    _run("train")


def sample() -> None:
    """Run sample.py."""
    _run("sample")


def evaluate() -> None:
    """Run evaluate.py."""
    _run("evaluate")


def convert() -> None:
    """Run convert.py."""
    _run("convert")


def app() -> None:
    """Run app.py."""
    _run("app")


def _run(name: str) -> None:
    root = str(shipped.root())
    if root not in sys.path:  # config files import one another from there
        sys.path.insert(0, root)
    runpy.run_path(f"{root}/{name}.py", run_name="__main__")
