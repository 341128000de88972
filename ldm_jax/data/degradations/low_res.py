"""The transform that gives an example its small picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldm_jax.data.degradations import DEGRADATIONS
from ldm_jax.data.degradations.resizing import opencv
from ldm_jax.data.transforms import to_image


@dataclass(frozen=True)
class LowRes:
    """Adds `low_res`, float32 `[H // factor, W // factor, 3]` in [-1, 1].

    Made of `image` [H, W, 3] in [-1, 1], rounded to 8 bits first.

    Attributes:
      degradation: a name of `DEGRADATIONS`.
      factor: how many times smaller.

    Raises:
      ValueError: for an unknown name, a factor below 1, or without OpenCV where the
        degradation needs it.
    """

    degradation: str
    factor: int

    def __post_init__(self) -> None:
        if self.degradation not in DEGRADATIONS:
            raise ValueError(
                f"data.degradation is {self.degradation!r}: choose one of "
                f"{', '.join(DEGRADATIONS)}"
            )
        if self.factor < 1:
            raise ValueError(f"LowRes has factor={self.factor}: give 1 or more")
        if self.degradation.startswith(("bsrgan", "cv_")):
            opencv()  # raises now, not with the first example

    def __call__(
        self, example: Mapping[str, Any], generator: np.random.Generator
    ) -> dict[str, Any]:
        pixels = np.round((example["image"] + 1) * 127.5).clip(0, 255)
        degrade = DEGRADATIONS[self.degradation]
        small = degrade(pixels.astype(np.uint8), self.factor, generator)
        return {**example, "low_res": to_image(small)}
