"""Rows of the input pipeline."""

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks import unet
from benchmarks.rows import Setting, Sides

BATCHES_A_CALL = 8
NUM_JPEGS = 64


def demo(setting: Setting, batch_size: int) -> Sides:
    """Pictures of emoji64, against how fast the demo's train step takes them.

    The ratio is the headroom: how many times as many are read as are used.
    """
    from ldm_jax.data.datasets import emoji64  # noqa: F401  # says what is missing

    alone = Setting(setting.device, setting.dtype, references=())
    step = unet.step(alone, "emoji_f4", batch_size).ours

    def used() -> None:
        for _ in range(BATCHES_A_CALL):
            step()

    return Sides(
        _reader("emoji64", 64, batch_size),
        {"the train step's use": used},
        batch_size * BATCHES_A_CALL,
        "images",
    )


def jpegs(setting: Setting, side: int, batch_size: int) -> Sides:
    """Pictures of a folder of JPEGs of 1.5 times `side`, resized and cropped to it.

    Seconds are those of a core, all threads together: the rate is that of one core.
    """
    del setting
    # Until the end: a closed loader's threads finish what they have begun to read.
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _write_jpegs(Path(folder), side * 3 // 2)
    read = _reader(f"folder:{folder}", side, batch_size)
    amount = batch_size * BATCHES_A_CALL
    return Sides(read, {}, amount, "images", clock=time.process_time)


def _reader(source: str, side: int, batch_size: int) -> Callable[[], None]:
    """Reads so many batches in a row that what was read ahead counts little."""
    from ldm_jax.data.pipeline import make_loader
    from ldm_jax.data.sources import open_source
    from ldm_jax.data.transforms import PreparePicture, SquareImage

    square = SquareImage(
        image_size=side, resize="smallest", crop="center", flip_rate=0.5
    )
    opened = open_source(source, split="train")

    def read() -> None:
        loader = make_loader(
            opened, PreparePicture(square, ()), batch_size=batch_size, seed=0
        )
        with closing(loader):
            for _ in range(BATCHES_A_CALL):
                next(loader)

    return read


def _write_jpegs(folder: Path, side: int) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    for index in range(NUM_JPEGS):
        coarse = random.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((side * 4 // 3, side))
        picture.save(os.fspath(folder / f"{index:03}.jpg"), quality=90)
