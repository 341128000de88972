"""The published models that diffusers has pipelines for: same description, same tensors."""

import importlib

import pytest

from ldm_jax.interop.diffusers_check import check_sections
from ldm_jax.interop.diffusers_pipelines import (
    component_configs,
    components,
    pipeline_of,
    sections_of,
)

# Each model's pipeline, and the parameters of its denoiser.
PUBLISHED = {
    "celebahq_f4": ("LDMPipeline", 274_056_163),
    "ffhq_f4": ("LDMPipeline", 274_056_163),
    "lsun_bedrooms_f4": ("LDMPipeline", 274_056_163),
    "sr_bsr_f4": ("LDMSuperResolutionPipeline", 113_622_563),
    "text2img_1p4b": ("LDMTextToImagePipeline", 872_300_484),
    "sd_v1": ("StableDiffusionPipeline", 859_520_964),
    "sd_v1_inpaint": ("StableDiffusionInpaintPipeline", 859_535_364),
    "sd_v2": ("StableDiffusionPipeline", 865_910_724),
}
# diffusers has none: a conditioner, a first stage or residual resampling of their own.
WITHOUT_PIPELINE = (
    "imagenet_f4",
    "inpaint_f4",
    "layout_openimages_f4",
    "lsun_churches_f8",
    "rdm_768",
    "semantic_landscapes_f4",
)


def sections_for(name):
    return importlib.import_module(f"configs.{name}").get_config().to_dict()


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_a_published_model_is_written_as_is_read_as_that_model(name):
    sections = sections_for(name)
    pipeline = pipeline_of(sections)
    assert pipeline == PUBLISHED[name][0]
    configs = component_configs(pipeline, sections)
    found, _ = sections_of(pipeline, configs)
    check_sections(found, sections, "the folder")
    assert found["latent"]["scale"] == sections["latent"]["scale"]
    assert found["data"]["image_size"] == sections["data"]["image_size"]


@pytest.mark.parametrize("name", WITHOUT_PIPELINE)
def test_a_model_without_a_pipeline_is_refused_in_one_sentence(name):
    sections = sections_for(name)
    with pytest.raises(ValueError, match="--format=compvis") as caught:
        component_configs(pipeline_of(sections), sections)
    assert "\n" not in str(caught.value)


@pytest.mark.full
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_of_a_published_model_has_diffusers_name_and_shape(name):
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from tests.parity import torch_diffusers as theirs

    sections = sections_for(name)
    pipeline = pipeline_of(sections)
    configs = component_configs(pipeline, sections)
    for component in components(pipeline, sections):
        with torch.device("meta"):
            model = theirs.from_config(component.name, configs[component.name])
        state = model.state_dict()
        # Published folders have the prefix that transformers 5 leaves out and reads.
        prefix = "text_model." if component.name == "text_encoder" else ""
        wanted = {f"{prefix}{name}": tuple(v.shape) for name, v in state.items()}
        unused = {name for name in wanted if "to_logits" in name}
        assert component.torch_shapes == {k: wanted[k] for k in wanted.keys() - unused}
        if component.name == "unet":
            assert sum(v.numel() for v in state.values()) == PUBLISHED[name][1]
