"""PatchGAN discriminator (Isola et al. 2017) in the shape the first stages use."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ldm_jax.adversarial.batch_norm import BatchNorm
from ldm_jax.nn.convolution import Conv


class PatchDiscriminator(nn.Module):
    """Real-or-fake logits of overlapping patches; 70 pixels wide with three layers.

    4x4 convolutions: `num_layers` with stride 2, two with stride 1; LeakyReLU 0.2 and,
    except at both ends, BatchNorm between them. Kernels start as N(0, 0.02).

    Attributes:
      ndf: width of the first layer; doubled in every layer up to 8 * ndf.
      num_layers: strided layers (published: 3, and 2 for VQ f=8 and f=16).
      dtype: of the convolutions; BatchNorm and the logits are float32.
    """

    ndf: int = 64
    num_layers: int = 3
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "b H W 3"], *, train: bool
    ) -> Float[Array, "b h w 1"]:
        """Logits, positive for real; `train` normalises by the batch's own statistics.

        Raises:
          ValueError: the image is too small to leave a logit.
        """
        self._check_size(image)
        x = self._conv(0, self.ndf, stride=2, use_bias=True)(image)
        x = nn.leaky_relu(x, 0.2)
        for index in range(1, self.num_layers + 1):
            width = self.ndf * min(2**index, 8)
            stride = 2 if index < self.num_layers else 1
            x = self._conv(index, width, stride=stride, use_bias=False)(x)
            x = BatchNorm(name=f"norm_{index}")(x, train=train)
            x = nn.leaky_relu(x, 0.2)
        logits = self._conv(self.num_layers + 1, 1, stride=1, use_bias=True)(x)
        return logits.astype(jnp.float32)

    def _conv(self, index: int, width: int, *, stride: int, use_bias: bool) -> Conv:
        return Conv(
            width,
            kernel_size=4,
            stride=stride,
            padding=1,
            use_bias=use_bias,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(0.02),
            name=f"conv_{index}",
        )

    def _check_size(self, image: jax.Array) -> None:
        smallest = 3 * 2**self.num_layers
        if min(image.shape[1:3]) < smallest:
            raise ValueError(
                f"a discriminator with num_layers={self.num_layers} needs images of at "
                f"least {smallest} pixels, but these are {image.shape[1]}x"
                f"{image.shape[2]}: use larger images or fewer layers"
            )
