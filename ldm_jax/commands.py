"""The console scripts: `ldm-train` is `python train.py`, from any folder.

Each runs the very file of the checkout, or the copy of it that a wheel carries.
"""

import runpy

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


def doctor() -> None:
    """Run `python -m ldm_jax.doctor`."""
    runpy.run_module("ldm_jax.doctor", run_name="__main__", alter_sys=True)


def _run(name: str) -> None:
    shipped.make_configs_importable()
    runpy.run_path(str(shipped.root() / f"{name}.py"), run_name="__main__")
