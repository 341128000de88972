"""Ways to make a small picture of a large one, for super-resolution.

`DEGRADATIONS[name](pixels, factor, generator)` takes uint8 `[H, W, 3]` and gives uint8
`[H // factor, W // factor, 3]`; rows and columns beyond a multiple of the factor are
cut from the bottom and the right first. All chance comes from the generator, of which
the plain resizes draw nothing. `bsrgan*` and `cv_*` need OpenCV, the extra `sr`.
`low_res.LowRes` is the transform that adds the small picture to an example.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from PIL.Image import Resampling

from ldm_jax.data.degradations.bsrgan import BSRGAN, BSRGAN_LIGHT, bsrgan
from ldm_jax.data.degradations.resizing import cv_resize, pil_resize

Degradation = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

DEGRADATIONS: dict[str, Degradation] = {
    "bicubic": partial(pil_resize, resample=Resampling.BICUBIC),
    "bsrgan": partial(bsrgan, settings=BSRGAN),
    "bsrgan_light": partial(bsrgan, settings=BSRGAN_LIGHT),
    "cv_nearest": partial(cv_resize, interpolation="nearest"),
    "cv_bilinear": partial(cv_resize, interpolation="linear"),
    "cv_bicubic": partial(cv_resize, interpolation="cubic"),
    "cv_area": partial(cv_resize, interpolation="area"),
    "cv_lanczos": partial(cv_resize, interpolation="lanczos"),
    "pil_nearest": partial(pil_resize, resample=Resampling.NEAREST),
    "pil_bilinear": partial(pil_resize, resample=Resampling.BILINEAR),
    "pil_bicubic": partial(pil_resize, resample=Resampling.BICUBIC),
    "pil_box": partial(pil_resize, resample=Resampling.BOX),
    "pil_hamming": partial(pil_resize, resample=Resampling.HAMMING),
    "pil_lanczos": partial(pil_resize, resample=Resampling.LANCZOS),
}
