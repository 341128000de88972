"""Latent diffusion's own text and layout encoder, trained with the denoiser."""

from jaxtyping import Array, Float, Int

from ldm_jax.conditioners.token_conditioner import TokenConditioner, check_choice
from ldm_jax.nn.transformer import Remat, Transformer


class TokenTransformer(TokenConditioner):
    """An unmasked transformer over token ids (the reference's `BERTEmbedder`).

    The published text models read 77 word pieces (of BERT only the tokenizer is used),
    the layout model 92 layout tokens. Padding is attended to like any token. The
    attention is 512 wide inside, whatever the width. The reference has no condition
    dropout.

    | model           | embed_dim | num_layers | vocab_size | max_length |
    |-----------------|-----------|------------|------------|------------|
    | text2img 1.45B  | 1280      | 32         | 30,522     | 77         |
    | text2img f4     | 640       | 32         | 30,522     | 77         |
    | layout          | 512       | 16         | 8,192      | 92         |

    Attributes:
      embed_dim: width of the output.
      num_layers: blocks of attention and feed-forward.
      vocab_size: number of ids; one past the table gives NaN.
      remat: "blocks" keeps only the blocks' inputs for the backward pass.
    """

    embed_dim: int
    num_layers: int
    vocab_size: int = 30_522
    num_heads: int = 8
    head_dim: int = 64
    remat: Remat = "none"

    def setup(self):
        self._check()
        check_choice("remat", self.remat, Remat)
        self.encoder = Transformer(
            embed_dim=self.embed_dim,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            max_length=self.max_length,
            qkv_bias=False,
            remat=self.remat,
            dtype=self.dtype,
        )

    def encode(self, tokens: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        """Ids to hidden states after the last norm."""
        return self.encoder(tokens)
