"""CLIP's image encoder, a vision transformer; Radford et al. 2021, arXiv:2103.00020."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

from ldm_jax.features.resize import bicubic_rounded
from ldm_jax.nn.convolution import Conv
from ldm_jax.nn.dense import Dense
from ldm_jax.nn.transformer import Activation, TransformerBlock

# Of OpenAI's and LAION's models, for pixels in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ClipImage(nn.Module):
    """A normalised image to CLIP's embedding, which is not of unit length.

    | model    | width | num_layers | num_heads | patch_size | embed_dim | activation |
    |----------|-------|------------|-----------|------------|-----------|------------|
    | ViT-B/32 | 768   | 12         | 12        | 32         | 512       | quick_gelu |
    | ViT-L/14 | 1024  | 24         | 16        | 14         | 768       | quick_gelu |
    | OpenCLIP ViT-H/14 | 1280 | 32 | 16       | 14         | 1024      | gelu       |

    Attributes:
      width: of the hidden states.
      num_layers: blocks of attention and feed-forward, the latter four times as wide.
      num_heads: attention heads; they divide the width.
      patch_size: pixels on the side of a patch.
      image_size: pixels on the side of the image.
      embed_dim: of the embedding that images and texts share.
      activation: of the feed-forward layers.
    """

    width: int
    num_layers: int
    num_heads: int
    patch_size: int
    image_size: int
    embed_dim: int
    activation: Activation = "quick_gelu"

    @nn.compact
    def __call__(self, image: Float[Array, "b s s 3"]) -> Float[Array, "b d"]:
        """See the class."""
        b, d, p = len(image), self.width, self.patch_size
        x = Conv(d, p, p, use_bias=False, name="patch_embedding")(image)
        first = self.param("class_embedding", nn.initializers.normal(0.02), (d,))
        first = jnp.broadcast_to(first, (b, 1, d))
        x = jnp.concatenate([first, x.reshape(b, -1, d)], axis=1)  # [b 1+l d]
        position = nn.Embed(x.shape[1], d, name="position_embedding")
        x = _norm("norm_in")(x + position(jnp.arange(x.shape[1])))
        for index in range(self.num_layers):
            x = TransformerBlock(
                self.num_heads,
                d // self.num_heads,
                activation=self.activation,
                name=f"block_{index}",
            )(x)
        x = _norm("norm_out")(x[:, 0])
        return Dense(self.embed_dim, use_bias=False, name="projection")(x)


def clip_features(
    module: ClipImage,
    params: Mapping[str, Any],
    pixels: UInt8[Array, "b H W 3"],
    *,
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
) -> dict[str, jax.Array]:
    """ "pool" [b, embed_dim], transformers' `image_embeds`, from pixels of any size."""
    image = preprocess(pixels, module.image_size) / 255
    image = (image - jnp.array(mean)) / jnp.array(std)
    return {"pool": jnp.asarray(module.apply({"params": params}, image))}


def preprocess(
    pixels: UInt8[Array, "b H W 3"], size: int
) -> Float[Array, "b size size 3"]:
    """The shorter side bicubically to `size`, rounded like Pillow; the centre square."""
    height, width = pixels.shape[1:3]
    shorter = min(height, width)
    height, width = (int(size * length / shorter) for length in (height, width))
    image = bicubic_rounded(pixels, height, width)
    top, left = (round((length - size) / 2) for length in (height, width))
    return image[:, top : top + size, left : left + size]


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)
