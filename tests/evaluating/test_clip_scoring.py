"""CLIP score of samples against transformers' CLIPModel."""

import numpy as np
import pytest

from ldm_jax.evaluating.clip_scoring import ClipScorer
from ldm_jax.evaluating.picture_sets import from_npz
from ldm_jax.evaluation.sample_metrics import Result

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.parity.torch_transformers import import_transformers, randomised

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "projection_dim": 32,
}
TEXT = TOWER | {"vocab_size": 49_408, "bos_token_id": 49_406, "eos_token_id": 49_407}
VISION = TOWER | {"image_size": 32, "patch_size": 8}
PROMPTS = ["a red apple", "a photograph of two dogs, sleeping"]
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A small random CLIPModel and its folder."""
    transformers = import_transformers()
    config = transformers.CLIPConfig(
        text_config=TEXT, vision_config=VISION, projection_dim=32
    )
    folder = tmp_path_factory.mktemp("clip")
    model = randomised(transformers.CLIPModel(config)).eval()
    with torch.no_grad():
        model.visual_projection.weight.neg_()  # to cosines above 0
    model.save_pretrained(folder)
    return folder, model


def their_scores(model):
    from ldm_jax.data.tokenizers import load_tokenizer
    from ldm_jax.features.clip_image import MEAN, STD

    ids = torch.from_numpy(load_tokenizer("clip")(PROMPTS).astype(np.int64))
    normalised = (PIXELS / 255 - np.array(MEAN)) / np.array(STD)
    pixels = torch.from_numpy(normalised.transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=pixels)
    images, texts = (x / x.norm(dim=1, keepdim=True) for x in (out[3], out[2]))
    cosines = (images @ texts.T).numpy()[np.arange(5), np.arange(5) % 2]
    return 100 * np.maximum(cosines, 0)


def test_the_score_equals_transformers(clip, tmp_path):
    folder, model = clip
    np.savez(tmp_path / "samples.npz", PIXELS)
    scorer = ClipScorer(folder, PROMPTS, batch_size=2)
    pictures = scorer.watch(from_npz(tmp_path / "samples.npz"))
    seen = np.concatenate(list(pictures.batches(2)))
    np.testing.assert_array_equal(seen, PIXELS)
    result = Result()
    scorer.add_to(result)
    expected = their_scores(model)
    assert np.any(expected > 0)
    np.testing.assert_allclose(result.values["clip_score"], expected.mean(), rtol=1e-3)


def test_what_it_needs_is_named(clip, tmp_path):
    folder, _ = clip
    with pytest.raises(ValueError, match="--prompts=FILE"):
        ClipScorer(folder, [], batch_size=2)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ClipScorer(tmp_path / "nowhere", PROMPTS, batch_size=2)
