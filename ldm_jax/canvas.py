"""The size of what is drawn, and the tiles that a large picture is drawn in."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ldm_jax.tiling import Tiling

if TYPE_CHECKING:
    from ldm_jax.model import Model

# Pictures that a model is given, by the rank of a batch of them; all but the first are
# batch fields too. low_res has a pixel for each of the latent.
RANKS = {
    "init_image": 4,
    "low_res": 4,
    "segmentation": 3,
    "masked_image": 4,
    "hole": 4,
}
# Pictures larger than this many times the training size are drawn in tiles of that size.
AUTOMATIC_TILE = 2


@dataclasses.dataclass(frozen=True)
class Canvas:
    """What is asked for lies in the top left corner of what the network draws.

    Attributes:
      size: height and width of the result, in pixels.
      frame: those that the network takes: the next multiples of what it halves.
      f: the downsampling factor of the first stage.
    """

    size: tuple[int, int]
    frame: tuple[int, int]
    f: int

    @property
    def latent_size(self) -> tuple[int, int]:
        """The frame in latent pixels."""
        return self.frame[0] // self.f, self.frame[1] // self.f

    def pad(self, name: str, batch: np.ndarray) -> np.ndarray:
        """A batch of one of the pictures in `RANKS`, its border repeated up to the frame.

        Other fields come back as they are.
        """
        if name not in RANKS:
            return batch
        sides = self.latent_size if name == "low_res" else self.frame
        extra = [
            (0, side - size) for side, size in zip(sides, batch.shape[1:3], strict=True)
        ]
        return np.pad(batch, [(0, 0), *extra, *[(0, 0)] * (batch.ndim - 3)], "edge")

    def crop(self, pixels: np.ndarray) -> np.ndarray:
        """What was asked for, of frames `[... H W 3]`."""
        return pixels[..., : self.size[0], : self.size[1], :]


def unit(model: Model) -> int:
    """What height and width of a frame must be multiples of, in pixels."""
    f = model.ldm.autoencoder.downsampling_factor
    return f * getattr(model.ldm.backbone, "downsampling_factor", 1)


def fit(
    model: Model,
    height: int | None = None,
    width: int | None = None,
    pictures: Mapping[str, np.ndarray] | None = None,
) -> Canvas:
    """The canvas of a size that is asked for, else of given pictures, else of the training.

    Args:
      height, width: exact sizes, as the network takes them or as the pictures have them.
      pictures: batches by a name of `RANKS`, of any one size; other names are ignored.

    Raises:
      ValueError: for a size that the network cannot draw, or pictures of another.
    """
    f, step = model.ldm.autoencoder.downsampling_factor, unit(model)
    asked = {"height": height, "width": width}
    sizes = {name: _size(n, p, f) for n, p in (pictures or {}).items()
             if (name := n) in RANKS}  # fmt: skip
    given = next(iter(sizes.values()), (model.config.data.image_size,) * 2)
    size = (height or given[0], width or given[1])
    for name, value in sizes.items():
        if value != size:
            raise ValueError(
                f"{name} has {_text(value)} pixels but {_text(size)} are to be drawn: "
                "resize it, or give that height and width"
            )
    for name, side in asked.items() if not sizes else ():
        if side is not None and (side < step or side % step):
            raise ValueError(
                f"{name}={side} is impossible for this model: give a multiple of {step}"
            )
    frame = (-(-size[0] // step) * step, -(-size[1] // step) * step)
    return Canvas(size, frame, f)


def tiling(
    model: Model,
    frame: tuple[int, int],
    tile_size: int | None = None,
    tile_overlap: int | None = None,
) -> Tiling | None:
    """The tiles of a frame on the grid of its latents; None to draw it as a whole.

    The reference's patches are of this size and overlap: 512 pixels every 256 for models
    of 256.

    Args:
      frame: height and width in pixels.
      tile_size: of the square tiles, in pixels; 0 for none. If left out, twice the
        training size, for frames that exceed it.
      tile_overlap: of neighbours, in pixels; half the tile if left out.

    Raises:
      ValueError: for tiles that the network cannot draw.
    """
    f, step = model.ldm.autoencoder.downsampling_factor, unit(model)
    side = tile_size
    if side is None:
        side = AUTOMATIC_TILE * model.config.data.image_size
    elif side and (side < step or side % step):
        raise ValueError(
            f"tile_size={side} is impossible for this model: give a multiple of {step}, "
            "or 0 for no tiles"
        )
    overlap = side // 2 // f * f if tile_overlap is None else tile_overlap
    if side and (not 0 <= overlap < side or overlap % f):
        raise ValueError(
            f"tile_overlap={overlap} is impossible for tiles of {side} pixels: give a "
            f"multiple of {f} below that"
        )
    if not side or max(frame) <= side:
        return None
    return Tiling((side // f,) * 2, ((side - overlap) // f,) * 2)


def _size(name: str, batch: np.ndarray, f: int) -> tuple[int, int]:
    shape = np.shape(batch)
    # Labels may also come as shares of each class.
    if len(shape) != RANKS[name] and not (name == "segmentation" and len(shape) == 4):
        raise ValueError(
            f"{name} has shape {shape}: give a batch of pictures, with "
            f"{RANKS[name]} axes"
        )
    scale = f if name == "low_res" else 1
    return scale * shape[1], scale * shape[2]


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
