"""Whole checkpoints of the original code: names, exceptions, noise schedule."""

import re

import numpy as np
import pytest

from ldm_jax.conditioners import ClassLabel, Compose
from ldm_jax.conversion import describing
from ldm_jax.diffusion import SCHEDULES, schedules
from ldm_jax.interop import compvis
from ldm_jax.interop.compvis_conditioner import conditioner_part
from ldm_jax.interop.matching import Part, exported, imported, match
from tests.published_models import config_of, narrow
from tests.synthetic_checkpoints import buffers

GOLDEN = "tests/golden/beta_schedules.npz"


def part(**fields):
    template = {
        "conv/kernel": np.zeros((3, 3, 2, 4), np.float32),
        "conv/bias": np.zeros(4, np.float32),
    }
    rules = ((r"layer\.0", "conv"),)
    return Part(
        "params", "net", "net.", rules, fields.pop("template", template), **fields
    )


def infos(**shapes):
    return {
        name.replace("__", "."): (np.dtype("float32"), shape)
        for name, shape in shapes.items()
    }


WHOLE = infos(net__layer__0__weight=(4, 2, 3, 3), net__layer__0__bias=(4,))


def test_a_file_that_fits_is_taken_whole():
    found = match(WHOLE, [part()])
    assert found.is_exact
    assert found.targets["net.layer.0.weight"].name == "conv/kernel"


def test_differences_are_named_on_either_side():
    file = infos(net__layer__0__weight=(5, 2, 3, 3), other=(1,), known=(2,))
    found = match(file, [part()], [("known", "for a reason")])
    assert found.known == {"known": "for a reason"}
    assert found.unmatched == ("other",) and found.missing == ("net.layer.0.bias",)
    sentence = found.difference()
    assert "net.layer.0.weight ([5, 2, 3, 3] in the file, [4, 2, 3, 3]" in sentence
    assert "1 only in the file: other" in sentence
    assert "1 only in the model: net.layer.0.bias" in sentence


def test_at_most_five_names_are_listed():
    file = WHOLE | infos(**{f"extra{i}": (1,) for i in range(9)})
    sentence = match(file, [part()]).difference()
    assert sentence == "9 only in the file: extra0, extra1, extra2, extra3, extra4, ..."


def test_an_optional_part_is_there_wholly_or_not_at_all():
    average = part(rename=compvis.ema_name, is_optional=True)
    assert match(WHOLE, [part(), average]).is_exact
    half = WHOLE | {"model_ema.netlayer0weight": WHOLE["net.layer.0.weight"]}
    found = match(half, [part(), average])
    assert found.missing == ("model_ema.netlayer0bias",)


def test_export_is_the_inverse_of_import():
    random = np.random.default_rng(0)
    state = {n: random.standard_normal(shape) for n, (_, shape) in WHOLE.items()}
    state = {name: value.astype(np.float32) for name, value in state.items()}
    items = imported(match(WHOLE, [part()]), state.__getitem__)
    back = exported([part()], items)
    assert back.keys() == state.keys()
    for name, lazy in back.items():
        np.testing.assert_array_equal(lazy.read(), state[name])


def test_names_without_dots_that_fall_together_are_refused():
    template = {
        "a/0/bias": np.zeros(1, np.float32),
        "b/bias": np.zeros(1, np.float32),
    }
    rules = ((r"x\.1\.1", "a/0"), (r"x\.11", "b"))
    average = Part(
        "ema", "net", "", rules, template, rename=compvis.ema_name, is_optional=True
    )
    with pytest.raises(ValueError, match="would both be called model_ema.x11bias"):
        match({}, [average])


def test_averages_lose_their_dots():
    name = "model.diffusion_model.input_blocks.0.0.weight"
    assert compvis.ema_name(name) == "model_ema.diffusion_modelinput_blocks00weight"


@pytest.mark.parametrize(
    ("golden", "ends"),
    [
        ("linear_ffhq", (0.0015, 0.0195)),
        ("linear_churches", (0.0015, 0.0155)),
        ("linear_inpaint", (0.0015, 0.0205)),
        ("linear_sd", (0.00085, 0.012)),
        ("linear_rdm", (0.0015, 0.015)),
    ],
)
def test_schedule_buffers_are_the_originals(golden, ends):
    buffer = compvis.schedule_buffers(schedules.linear(1000, *ends))
    expected = np.load(GOLDEN)[f"out/{golden}"].astype(np.float32)
    np.testing.assert_array_equal(buffer["betas"], expected)
    assert list(buffer) == list(compvis.SCHEDULE_BUFFERS)


def test_all_buffers_equal_the_originals_formulas():
    config = config_of("sd_v1")
    section = config.diffusion.schedule
    schedule = schedules.linear(1000, section.beta_start, section.beta_end)
    ours, theirs = compvis.schedule_buffers(schedule), buffers(config)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        # Rounded once from float64; log(1 - abar) at t = 0 is the worst conditioned.
        np.testing.assert_array_max_ulp(ours[name], value, maxulp=1)


def test_rectified_flow_has_no_place_in_the_format():
    with pytest.raises(ValueError, match="rectified flow"):
        compvis.schedule_buffers(SCHEDULES["rectified_flow"]())


def test_only_the_listed_names_are_known():
    known = [re.compile(pattern) for pattern, _ in compvis.KNOWN]

    def is_known(name):
        return any(pattern.fullmatch(name) for pattern in known)

    for name in (
        "betas",
        "scale_factor",
        "logvar",
        "model_ema.num_updates",
        "loss.perceptual_loss.lin0.model.1.weight",
        "first_stage_model.loss.logvar",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "cond_stage_model.transformer.to_logits.weight",
        "cond_stage_model.model.logit_scale",
    ):
        assert is_known(name), name
    for name in (
        "model.diffusion_model.out.2.bias",
        "model_ema.diffusion_modelout2bias",
        "cond_stage_model.transformer.norm.weight",
        "cond_stage_model.encoder.conv_in.weight",
        "first_stage_model.quant_conv.weight",
        "betas_of_another_kind",
    ):
        assert not is_known(name), name


def test_two_conditioners_with_parameters_have_no_place():
    parts = tuple(ClassLabel(3, 8, name=name) for name in "ab")
    template = {f"{name}/embedding/embedding": np.zeros((4, 8)) for name in "ab"}
    with pytest.raises(ValueError, match="has the parts a, b"):
        conditioner_part(Compose(parts), template)


def test_a_class_table_of_the_denoiser_is_averaged_with_it():
    config = narrow(config_of("ffhq_f4"))
    config.conditioner = {"name": "class_label", "num_classes": 3, "slot": "vector"}
    names = [n for p in describing.describe(config).parts for n in p.targets]
    assert "model.diffusion_model.label_emb.weight" in names
    assert "model_ema.diffusion_modellabel_embweight" in names
