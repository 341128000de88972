"""The networks that are timed, and random weights for them.

Spelled out, so that a machine without ml_collections runs the benchmarks; a test holds
them to the configs of the same names.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.autoencoders import AUTOENCODERS
from ldm_jax.backbones import UNet


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A U-Net and the inputs it is timed with.

    Attributes:
      fields: of `UNet`.
      side, channels: of the latents.
      tokens: length and width of what it reads, if it reads any.
    """

    fields: dict[str, Any]
    side: int
    channels: int
    tokens: tuple[int, int] | None = None

    def unet(self, dtype: str) -> UNet:
        """The module in a compute dtype."""
        return UNet(self.channels, **self.fields, dtype=jnp.dtype(dtype))

    def inputs(self, batch_size: int, seed: int = 0) -> dict[str, np.ndarray]:
        """float32 `x` and int32 `t`, and `tokens` for those who read them."""
        random = np.random.default_rng(seed)
        shape = (batch_size, self.side, self.side, self.channels)
        t = (np.arange(batch_size, dtype=np.int32) * 37 + 500) % 1000
        given = {"x": random.standard_normal(shape, np.float32), "t": t}
        if self.tokens is not None:
            shape = (batch_size, *self.tokens)
            given["tokens"] = random.standard_normal(shape, np.float32)
        return given


DENOISERS = {
    "emoji_f4": Denoiser(
        {
            "model_channels": 64,
            "channel_mult": (1, 2, 2),
            "num_res_blocks": 1,
            "attention_resolutions": (2, 4),
            "num_head_channels": 32,
        },
        side=16,
        channels=4,
    ),
    "ffhq_f4": Denoiser(
        {
            "model_channels": 224,
            "channel_mult": (1, 2, 3, 4),
            "attention_resolutions": (8, 4, 2),
            "num_head_channels": 32,
        },
        side=64,
        channels=3,
    ),
    "sd_v1": Denoiser(
        {
            "attention": "transformer",
            "model_channels": 320,
            "channel_mult": (1, 2, 4, 4),
            "attention_resolutions": (4, 2, 1),
            "num_heads": 8,
        },
        side=64,
        channels=4,
        tokens=(77, 768),
    ),
    # For tests: every kind of layer, next to no work.
    "tiny": Denoiser(
        {
            "model_channels": 32,
            "channel_mult": (1, 2),
            "num_res_blocks": 1,
            "attention_resolutions": (2,),
            "num_head_channels": 16,
        },
        side=8,
        channels=4,
    ),
}

_PUBLISHED = {"ch": 128, "num_res_blocks": 2, "resolution": 256}
FIRST_STAGES = {
    "emoji_kl_f4": {
        "name": "kl",
        "ch": 16,
        "ch_mult": (1, 3, 6),
        "num_res_blocks": 1,
        "resolution": 64,
        "num_groups": 8,
        "z_channels": 4,
        "embed_dim": 4,
    },
    "kl_f8": {
        "name": "kl",
        "ch_mult": (1, 2, 4, 4),
        "z_channels": 4,
        "embed_dim": 4,
        **_PUBLISHED,
    },
    "vq_f4": {
        "name": "vq",
        "ch_mult": (1, 2, 4),
        "z_channels": 3,
        "embed_dim": 3,
        "num_embeddings": 8192,
        **_PUBLISHED,
    },
    "tiny": {
        "name": "kl",
        "ch": 32,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "resolution": 16,
        "z_channels": 4,
        "embed_dim": 4,
    },
}


def first_stage(name: str, dtype: str) -> Any:
    """The autoencoder module in a compute dtype."""
    fields = dict(FIRST_STAGES[name])
    return AUTOENCODERS[fields.pop("name")](**fields, dtype=jnp.dtype(dtype))


def random_params(shapes: Any, seed: int = 0) -> Any:
    """numpy weights that keep the variance of their input; no layer is zero."""
    random = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        values = random.standard_normal(leaf.shape, np.float32)
        if path[-1].key == "scale":
            return 1 + 0.1 * values
        fan_in = math.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100
        return values * np.float32(fan_in**-0.5)

    return jax.tree_util.tree_map_with_path(draw, shapes)
