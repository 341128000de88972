"""Both sides of every row compute the same, so that their times may be compared."""

import jax
import numpy as np
import pytest

from benchmarks import attention, first_stage, sampling, text, unet
from benchmarks.first_stage_training import training
from benchmarks.networks import DENOISERS, FIRST_STAGES
from benchmarks.rows import Setting
from benchmarks.suites import SUITES

pytest.importorskip("torch")
pytest.importorskip("diffusers")

SETTING = Setting()


def assert_equal_results(sides, axes=(0, 2, 3, 1), tolerance=1e-4):
    ours = np.asarray(sides.ours(), np.float32)
    (theirs,) = (call().numpy() for call in sides.references.values())
    theirs = theirs.transpose(axes) if theirs.ndim == 4 else theirs
    np.testing.assert_allclose(ours, theirs, atol=tolerance * np.abs(theirs).max())
    assert theirs.std() > 0


def test_forward_passes_of_the_unet():
    assert_equal_results(unet.forward(SETTING, "tiny", 2))


def test_pictures_drawn_by_ddim():
    assert_equal_results(sampling.ddim(SETTING, sampling.TINY, 2, 4), tolerance=1e-3)


@pytest.mark.parametrize("half", [first_stage.encode, first_stage.decode])
def test_halves_of_the_first_stage(half):
    assert_equal_results(half(SETTING, "tiny", 2, 16))


def test_hidden_states_of_the_text_encoder():
    assert_equal_results(text.encode(SETTING, "tiny", 2))


def test_attention():
    # torch's [b n l d] to ours.
    assert_equal_results(attention.forward(SETTING, (2, 16, 3, 8)), axes=(0, 2, 1, 3))


def test_gradients_of_attention():
    sides = attention.gradient(SETTING, (2, 16, 3, 8))
    (call,) = sides.references.values()
    for ours, theirs in zip(sides.ours(), call(), strict=True):
        theirs = theirs.numpy().transpose(0, 2, 1, 3)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_train_steps_of_the_unet_lead_to_the_same_losses():
    sides = unet.step(SETTING, "tiny", 2)
    (theirs,) = sides.references.values()
    losses = np.array([(sides.ours(), theirs()) for _ in range(4)])
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-3)
    assert losses[3, 0] < 0.9 * losses[0, 0]


@pytest.mark.slow
def test_train_steps_of_the_first_stage_lead_to_the_same_losses():
    pytest.importorskip("lpips")
    sides = training(SETTING, "tiny", 2, 32)
    (theirs,) = sides.references.values()
    for _ in range(2):
        a, b = sides.ours(), theirs()
        np.testing.assert_allclose(
            a["discriminator/loss"], b["discriminator/loss"], rtol=1e-3
        )
    # Ours reports the loss of which torch's generator loss is a part as a metric.
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=2e-3)


@pytest.mark.parametrize("name", ["ffhq_f4", "sd_v1", "emoji_f4"])
def test_denoisers_are_those_of_the_configs(name):
    from configs import emoji_f4, ffhq_f4, sd_v1
    from ldm_jax import build

    config = {"ffhq_f4": ffhq_f4, "sd_v1": sd_v1, "emoji_f4": emoji_f4}[name]
    config = config.get_config()
    config.backbone.remat = "none"
    ldm, net = build.latent_diffusion(config), DENOISERS[name]
    assert net.unet("float32") == ldm.backbone
    batch = {"image": np.zeros((1, config.data.image_size, config.data.image_size, 3))}
    assert ldm.latent_shape(batch) == (1, net.side, net.side, net.channels)


@pytest.mark.parametrize("name", [n for n in FIRST_STAGES if n != "tiny"])
def test_first_stages_are_those_of_the_configs(name):
    import importlib

    from ldm_jax import build

    config = importlib.import_module(f"configs.autoencoder.{name}").get_config()
    theirs = {**config.autoencoder}
    for field, value in FIRST_STAGES[name].items():
        assert theirs[field] == value, field
    assert build.autoencoder(config).downsampling_factor == 2 ** (
        len(FIRST_STAGES[name]["ch_mult"]) - 1
    )


def test_every_suite_has_rows_of_different_names():
    for suite in SUITES.values():
        names = [case.name for case in suite()]
        assert len(names) == len(set(names))


def test_sides_finish_their_work_before_they_return():
    out = unet.forward(Setting(references=()), "tiny", 1).ours()
    assert isinstance(out, jax.Array) and out.is_ready()
