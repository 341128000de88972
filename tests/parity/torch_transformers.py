"""transformers and diffusers with torch, where torchvision may lack its compiled part."""

import torch

from tests.parity.torch_vision import import_torchvision


def import_transformers():
    """The package `transformers`, its torch models importable.

    They import torchvision, which without its compiled operators fails until two of them
    are declared.
    """
    import_torchvision()
    import transformers

    transformers.logging.set_verbosity_error()
    return transformers


def ldm_bert():
    """diffusers' classes (LDMBertConfig, LDMBertModel)."""
    import_transformers()
    from diffusers.pipelines.latent_diffusion import pipeline_latent_diffusion as module

    return module.LDMBertConfig, module.LDMBertModel


def randomised(model, seed=0):
    """`model` for evaluation with normal weights in which every layer counts.

    Matrices keep the variance of their input, norms differ between channels, biases and
    embeddings are not small: an error in any of them shows.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(parameter, mean, deviation):
        parameter.normal_(mean, deviation, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(module, torch.nn.Linear) and name == "weight":
                    normal(parameter, 0, parameter.shape[1] ** -0.5)
                elif isinstance(module, torch.nn.LayerNorm) and name == "weight":
                    normal(parameter, 1, 0.1)
                else:
                    normal(parameter, 0, 0.3)
    return model.eval().requires_grad_(False)
