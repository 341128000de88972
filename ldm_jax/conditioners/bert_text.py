"""A pretrained BERT as text encoder: the sentence encoder of the shipped demo model."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from ldm_jax.conditioners.token_conditioner import TokenConditioner, check_heads
from ldm_jax.nn.bert import Bert


class BertText(TokenConditioner):
    """Word pieces to the hidden states of a BERT, as `all-MiniLM-L6-v2` is one.

    Each state is brought to mean 0 and variance 1 over its channels (BERT's own last norm
    leaves channels of unequal size), and is 0 at padding: the denoiser's cross-attention
    needs no mask, and reads nothing there.

    Attributes:
      width: of the output.
      num_layers: blocks; the first ones of a pretrained BERT may do.
      num_heads: attention heads; they divide the width.
      vocab_size: number of ids; one past the table gives NaN.
      pad_id: the id of padding.
    """

    width: int
    num_layers: int
    num_heads: int
    vocab_size: int = 30_522
    pad_id: int = 0

    def setup(self):
        self._check()
        check_heads(self.width, self.num_heads)
        self.encoder = Bert(
            width=self.width,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            vocab_size=self.vocab_size,
            max_length=self.max_length,
            dtype=self.dtype,
        )
        self.norm = nn.LayerNorm(
            use_bias=False, use_scale=False, use_fast_variance=False, dtype=self.dtype
        )

    def encode(self, tokens: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        """Ids to normalised hidden states, 0 where there is padding."""
        is_token = tokens != self.pad_id
        hidden = self.norm(self.encoder(tokens, is_token))
        return jnp.where(is_token[..., None], hidden, 0)
