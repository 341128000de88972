"""CLIP's image encoder against transformers, from its own and OpenCLIP's folders."""

import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.conditioners import ClipText
from ldm_jax.features import WeightsNotFoundError, find_network
from ldm_jax.features.clip_image import MEAN, STD, preprocess
from ldm_jax.interop.diffusers_text import CLIP_TEXT_RULES
from ldm_jax.interop.rename import import_state_dict

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.parity.torch_transformers import import_transformers, randomised

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 32,
}
VISION = {**TOWER, "image_size": 32, "patch_size": 8}
TEXT = {**TOWER, "vocab_size": 60, "max_position_embeddings": 12}
TEXT |= {"bos_token_id": 58, "eos_token_id": 59, "pad_token_id": 59}


def save_clip(folder, activation, **fields):
    """A small random `CLIPModel` and its folder."""
    transformers = import_transformers()
    config = transformers.CLIPConfig(
        text_config=TEXT | {"hidden_act": activation},
        vision_config=VISION | {"hidden_act": activation} | fields,
        projection_dim=32,
    )
    model = randomised_with_patches(transformers.CLIPModel(config))
    model.save_pretrained(folder)
    return model


def randomised_with_patches(model):
    torch.manual_seed(0)  # else the weights depend on the tests that ran before
    model = randomised(model)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.normal_(0, module.weight[0].numel() ** -0.5)
    return model


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def clip(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    return folder, save_clip(folder, request.param)


def images(size=32):
    return np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)


def torch_pixels(pixels):
    normalised = (pixels / 255.0 - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(normalised.astype(np.float32).transpose(0, 3, 1, 2).copy())


def embed(network, pixels):
    return np.asarray(jax.jit(network.apply)(network.params, pixels)["pool"])


def image_embeds(model, pixels):
    pooled = model.vision_model(pixel_values=torch_pixels(pixels)).pooler_output
    return model.visual_projection(pooled).numpy()


def test_embeddings_equal_transformers(clip):
    folder, model = clip
    network = find_network("clip", folder)
    expected = image_embeds(model, images())
    np.testing.assert_allclose(embed(network, images()), expected, atol=1e-4)
    assert expected.std(axis=0).min() > 1e-2
    assert not network.is_published and "centre crop" in network.preprocessing


def test_a_vision_model_on_its_own_gives_the_same(clip, tmp_path):
    folder, _ = clip
    kind = import_transformers().CLIPVisionModelWithProjection
    kind.from_pretrained(folder).save_pretrained(tmp_path)
    expected = embed(find_network("clip", folder), images())
    actual = embed(find_network("clip", tmp_path), images())
    np.testing.assert_array_equal(actual, expected)


def open_clip_state(model):
    """OpenCLIP's names, its fused projections and its plain matrix."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    embeddings = "vision_model.embeddings."
    out = {
        "visual.class_embedding": state[f"{embeddings}class_embedding"],
        "visual.positional_embedding": state[f"{embeddings}position_embedding.weight"],
        "visual.conv1.weight": state[f"{embeddings}patch_embedding.weight"],
        "visual.proj": np.ascontiguousarray(state["visual_projection.weight"].T),
        "logit_scale": state["logit_scale"],
    }
    for leaf in ("weight", "bias"):
        out[f"visual.ln_pre.{leaf}"] = state[f"vision_model.pre_layrnorm.{leaf}"]
        out[f"visual.ln_post.{leaf}"] = state[f"vision_model.post_layernorm.{leaf}"]
        for i in range(2):
            theirs = f"vision_model.encoder.layers.{i}."
            block = f"visual.transformer.resblocks.{i}."
            parts = [state[f"{theirs}self_attn.{p}_proj.{leaf}"] for p in "qkv"]
            out[f"{block}attn.in_proj_{leaf}"] = np.concatenate(parts)
            for ours, name in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                out[f"{block}{ours}.{leaf}"] = state[f"{theirs}{name}.{leaf}"]
    return out


@pytest.mark.parametrize(
    "file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
)
def test_open_clips_folders_give_the_same(clip, tmp_path, file):
    folder, model = clip
    activation = model.config.vision_config.hidden_act
    tower = {
        "image_size": 32,
        "layers": 2,
        "width": 32,
        "head_width": 8,
        "patch_size": 8,
    }
    config = {"embed_dim": 32, "vision_cfg": tower}
    config["quick_gelu"] = activation == "quick_gelu"
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    state = {k: torch.from_numpy(v) for k, v in open_clip_state(model).items()}
    if file.endswith("safetensors"):
        from safetensors.torch import save_file

        save_file(state, tmp_path / file)
    else:
        torch.save(state, tmp_path / file)
    expected = embed(find_network("clip", folder), images())
    np.testing.assert_array_equal(
        embed(find_network("clip", tmp_path), images()), expected
    )


def test_cosines_of_images_and_texts_equal_transformers(clip):
    folder, model = clip
    tokens = np.array([[58, 4, 7, 59, 59, 59], [58, 9, 59, 59, 59, 59]])
    hidden = model.text_model(input_ids=torch.from_numpy(tokens)).pooler_output
    texts = model.text_projection(hidden).numpy()
    pictures = image_embeds(model, images())
    expected = unit(pictures) @ unit(texts).T

    activation = model.config.text_config.hidden_act
    encoder = ClipText(
        max_length=12,
        width=32,
        num_layers=2,
        num_heads=4,
        vocab_size=60,
        activation=activation,
        output="pooled",
    )
    batch = {"tokens": tokens.astype(np.int32)}
    init = functools.partial(encoder.init, train=False)
    template = jax.eval_shape(init, jax.random.key(0), batch)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    params, _, missing = import_state_dict(state, CLIP_TEXT_RULES, template["params"])
    assert not missing
    ours = encoder.apply({"params": params}, batch, train=False).tokens[:, 0]
    embedded = embed(find_network("clip", folder), images())
    np.testing.assert_allclose(unit(embedded) @ ours.T, expected, atol=1e-4)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("size", [(48, 48), (61, 40), (30, 77)])
def test_preprocessing_equals_pillows_within_a_level(size):
    pixels = np.random.default_rng(1).integers(0, 256, (1, *size, 3), np.uint8)
    height, width = (int(32 * length / min(size)) for length in size)
    picture = Image.fromarray(pixels[0]).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    left, top = round((width - 32) / 2), round((height - 32) / 2)
    expected = np.asarray(picture.crop((left, top, left + 32, top + 32)), np.float32)
    actual = np.asarray(preprocess(pixels, 32))[0]
    assert np.abs(actual - expected).max() <= 1  # Pillow's weights are fixed point
    assert (actual == expected).mean() > 0.99


def test_an_encoder_that_is_not_clips_is_refused(tmp_path):
    save_clip(tmp_path, "gelu", intermediate_size=96)
    with pytest.raises(ValueError, match="feed-forward width 96 .*four times 32"):
        find_network("clip", tmp_path)


def test_what_is_missing_is_named(clip, tmp_path):
    with pytest.raises(WeightsNotFoundError, match="give the path of a folder"):
        find_network("clip")
    with pytest.raises(FileNotFoundError, match=r"no config.json in .*transformers or"):
        find_network("clip", tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": 32}')
    with pytest.raises(ValueError, match="config.json has no 'num_hidden_layers'"):
        find_network("clip", tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is no JSON object"):
        find_network("clip", tmp_path)
    config = json.loads((clip[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match="no weights in .*model.safetensors or"):
        find_network("clip", tmp_path)
    config["vision_config"]["image_size"] = 40
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(clip[0] / "model.safetensors")
    with pytest.raises(ValueError, match=r"position_embedding/embedding .*\(26, 32\)"):
        find_network("clip", tmp_path)


@pytest.mark.full
def test_vit_l_14_equals_transformers_at_full_width(tmp_path):
    transformers = import_transformers()
    config = transformers.CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
        projection_dim=768,
    )
    model = transformers.CLIPVisionModelWithProjection(config)
    model = randomised_with_patches(model)
    model.save_pretrained(tmp_path)
    pixels = images(224)[:1]
    expected = model(pixel_values=torch_pixels(pixels)).image_embeds.numpy()
    del model
    actual = embed(find_network("clip", tmp_path), pixels)
    print(f"largest difference {np.abs(actual - expected).max():.2e}")
    np.testing.assert_allclose(actual, expected, atol=1e-4)
