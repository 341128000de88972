"""Files of `torch.save`, read without torch and without running their code."""

from ldm_jax.torch_archive.reading import (
    TorchArchive,
    open_torch_archive,
    read_torch_archive,
)

__all__ = ["TorchArchive", "open_torch_archive", "read_torch_archive"]
