"""The index that a model's config names, if it suits the model."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

from pathlib import Path

from ml_collections import ConfigDict

from ldm_jax import config as config_lib
from ldm_jax.data.retrieval_index import Index, open_index


def open_index_of(
    config: ConfigDict, embed_dim: int, workdir: Path | None = None, folder: str = ""
) -> Index:
    """The index in `folder` or, without one, in `config.data.neighbors`.

    Args:
      embed_dim: width of the embeddings that the model takes.
      workdir: of the model; a relative path is looked for there first.

    Raises:
      FileNotFoundError, ValueError: one sentence if there is none, if it is damaged, or if
        its embeddings have another width.
    """
    path = folder or config.data.get("neighbors", "")
    if not path:
        raise ValueError(
            "config.data.neighbors is empty, but the model is conditioned on neighbours: "
            "make an index with tools/build_retrieval_index.py and give its folder "
            "(--config.data.neighbors=FOLDER in training)"
        )
    index = open_index(config_lib.resolve(path, workdir))
    if index.meta.embed_dim != embed_dim:
        raise ValueError(
            f"the index in {index.folder} has embeddings of {index.meta.embed_dim} "
            f"numbers ({index.meta.network}), but config.conditioner.embed_dim is "
            f"{embed_dim}: give an index of the network that the model is meant for, or "
            f"train one with --config.conditioner.embed_dim={index.meta.embed_dim}"
        )
    return index
