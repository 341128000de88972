import pytest

from ldm_jax.evaluation.curves import draw_curves, panels
from ldm_jax.evaluation.health import diagnose

HEALTHY = {
    "discriminator/disc_loss": 0.8,
    "discriminator/logits_real": 0.3,
    "discriminator/logits_fake": -0.2,
    "generator/disc_factor": 1.0,
    "generator/d_weight": 5000.0,
    "generator/perplexity": 900.0,
    "generator/posterior_std": 0.3,
}
SETTINGS = {"num_codes": 8192, "vectors_per_batch": 2048}


def history(count=5, **changed):
    row = HEALTHY | {name.replace("__", "/"): v for name, v in changed.items()}
    return [{"step": 10 * i, **row} for i in range(1, count + 1)]


def test_a_healthy_run_is_left_in_peace():
    assert diagnose(history(), **SETTINGS) == []
    assert diagnose([], **SETTINGS) == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {
                "discriminator__disc_loss": 0.01,
                "discriminator__logits_real": 4.0,
                "discriminator__logits_fake": -5.0,
            },
            "discriminator is too strong: its loss is 0.01",
        ),
        ({"generator__perplexity": 6.0}, "codebook has collapsed: the perplexity is 6"),
        ({"generator__posterior_std": 0.99}, "posterior has collapsed"),
    ],
)
def test_every_failure_has_its_sentence(changed, says):
    found = diagnose(history(**changed), **SETTINGS)
    assert len(found) == 1 and says in found[0]
    assert diagnose(history(2, **changed), **SETTINGS) == []  # too little to tell


def test_a_small_batch_cannot_use_a_large_codebook():
    rows = history(generator__perplexity=100.0)
    assert diagnose(rows, num_codes=16_384, vectors_per_batch=256) == []
    assert len(diagnose(rows, num_codes=16_384, vectors_per_batch=16_384)) == 1


def test_a_discriminator_that_has_not_started_is_not_too_strong():
    rows = history(
        **{
            "discriminator/disc_loss": 0.0,
            "discriminator/logits_real": 0.0,
            "discriminator/logits_fake": 0.0,
            "generator/disc_factor": 0.0,
        }
    )
    assert diagnose(rows, **SETTINGS) == []


@pytest.mark.parametrize(
    ("values", "is_worse"),
    [((9, 5, 8, 9), True), ((9, 5, 8, 5), False), ((9, 5, 5.5, 5.8), False)],
)
def test_a_rising_rfd_is_told(values, is_worse):
    rows = [{"step": i, "val/rfid": float(v)} for i, v in enumerate(values)]
    assert bool(diagnose(rows)) == is_worse


def test_curves_show_what_was_logged_and_the_sentences_below():
    rows = [{"step": i, "loss": 1.0 / (i + 1), "val/psnr": i, "val/psnr_ema": i + 1}
            for i in range(4)]  # fmt: skip
    rows += [{"step": 5, "loss": None, "discriminator/logits_real": 2.0}]
    found = panels(rows)
    assert found["val/psnr"] == ("val/psnr", "val/psnr_ema")
    assert list(found) == ["loss", "val/psnr", "logits"]
    plain, noted = draw_curves(rows), draw_curves(rows, ["x" * 10, "y" * 10])
    assert plain.shape == (220, 1080, 3) and len(noted) == len(plain) + 36
    assert (noted[len(plain) :] != 255).any() and (plain != 255).any()
