"""How well pictures fit their texts: Hessel et al. 2021, arXiv:2104.08718."""

import numpy as np
from jaxtyping import Float


def clip_score(
    image_embeddings: Float[np.ndarray, "n d"],
    text_embeddings: Float[np.ndarray, "n d"],
) -> Float[np.ndarray, " n"]:
    """100 x the cosine of each picture's embedding with its text's, not below 0.

    The paper multiplies by 2.5 instead, the usual implementations by 100.

    Raises:
      ValueError: if the shapes differ.
    """
    if image_embeddings.shape != text_embeddings.shape:
        raise ValueError(
            f"CLIP score pairs each picture with a text, but the embeddings have shapes "
            f"{image_embeddings.shape} and {text_embeddings.shape}: give one text for "
            "each picture, both from one CLIP"
        )
    units = [
        x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
        for x in (image_embeddings, text_embeddings)
    ]
    return 100 * np.maximum((units[0] * units[1]).sum(axis=1), 0)
