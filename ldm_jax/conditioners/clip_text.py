"""CLIP's text encoder, as Stable Diffusion 1 and 2 use it."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ldm_jax.conditioners.token_conditioner import (
    TokenConditioner,
    check_choice,
    check_heads,
)
from ldm_jax.nn.dense import Dense
from ldm_jax.nn.transformer import Activation, Remat, Transformer

Output = Literal["last", "penultimate", "pooled"]


class ClipText(TokenConditioner):
    """A causal transformer over CLIP's byte pairs; Radford et al. 2021, arXiv:2103.00020.

    | model                        | width | num_layers | num_heads | activation | output      |
    |------------------------------|-------|------------|-----------|------------|-------------|
    | Stable Diffusion 1: ViT-L/14 | 768   | 12         | 12        | quick_gelu | last        |
    | Stable Diffusion 2: OpenCLIP ViT-H/14 | 1024 | 24  | 16        | gelu       | penultimate |

    Diffusers' folders of Stable Diffusion 2 leave the unused block out: `num_layers=23,
    output="last"` there computes the same. Padding is attended to like any token. Fresh
    parameters start as those of `TokenTransformer` do, not as CLIP's did: published
    models have them from a checkpoint.

    Attributes:
      width: of the output.
      num_layers: blocks of attention and feed-forward.
      num_heads: attention heads; they divide the width.
      vocab_size: number of ids; one past the table gives NaN.
      activation: of the feed-forward layers.
      output: "last" is the last block's output after the final norm; "penultimate" the
        one before's, after the same norm (the last block then has parameters and no
        use); "pooled" one token, CLIP's embedding of the whole text: the hidden state at
        the closing token, projected, of unit length (the retrieval-augmented model).
      remat: "blocks" keeps only the blocks' inputs for the backward pass.
    """

    width: int
    num_layers: int
    num_heads: int
    vocab_size: int = 49_408
    activation: Activation = "quick_gelu"
    output: Output = "last"
    remat: Remat = "none"

    def setup(self):
        self._check()
        check_choice("activation", self.activation, Activation)
        check_choice("output", self.output, Output)
        check_choice("remat", self.remat, Remat)
        check_heads(self.width, self.num_heads)
        self.encoder = Transformer(
            embed_dim=self.width,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            head_dim=self.width // self.num_heads,
            vocab_size=self.vocab_size,
            max_length=self.max_length,
            mask="causal",
            activation=self.activation,
            num_unused=int(self.output == "penultimate"),
            remat=self.remat,
            dtype=self.dtype,
        )
        if self.output == "pooled":
            self.projection = Dense(self.width, use_bias=False, dtype=self.dtype)

    def encode(self, tokens: Int[Array, "b l"]) -> Float[Array, "b m d"]:
        """Ids to hidden states, or to one embedding with `output="pooled"`."""
        hidden = self.encoder(tokens)
        if self.output != "pooled":
            return hidden
        # The closing token has the largest id; where padding repeats it, the first counts.
        closing = jnp.argmax(tokens, axis=-1)
        pooled = jnp.take_along_axis(hidden, closing[:, None, None], axis=1)  # [b 1 d]
        pooled = self.projection(pooled).astype(jnp.float32)
        length = jnp.linalg.norm(pooled, axis=-1, keepdims=True)
        return (pooled / length).astype(self.dtype)
