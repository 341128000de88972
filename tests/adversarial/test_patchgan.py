"""The discriminator against the reference's numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import trees
from ldm_jax.adversarial.losses import hinge_loss, vanilla_loss
from ldm_jax.adversarial.patchgan import PatchDiscriminator
from ldm_jax.interop.compvis_discriminator import DISCRIMINATOR_RULES
from ldm_jax.interop.rename import import_state_dict

GOLDEN = Path(__file__).parents[1] / "golden" / "discriminator.npz"


def nhwc(x):
    return np.transpose(x, (0, 2, 3, 1))


def largest_relative_error(actual, expected):
    expected = np.asarray(expected)
    return np.max(np.abs(np.asarray(actual) - expected)) / np.max(np.abs(expected))


def shapes_of(model, size=64):
    return jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, size, size, 3)), train=False),
        jax.random.key(0),
    )


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


@pytest.fixture(scope="module")
def imported(golden):
    """Parameters, and the statistics after one training step, of the reference."""
    shapes = shapes_of(PatchDiscriminator(ndf=16))
    state = {k[3:]: v for k, v in golden.items() if k.startswith("sd/")}
    params, _, missing = import_state_dict(state, DISCRIMINATOR_RULES, shapes["params"])
    assert not missing
    stats, _, missing = import_state_dict(
        state, DISCRIMINATOR_RULES, shapes["batch_stats"]
    )
    assert not missing
    return params, stats


@pytest.fixture(scope="module")
def train_pass(golden, imported):
    params, stats = imported
    fresh = jax.tree.map(jnp.zeros_like, stats)
    fresh = {name: {**leaf, "var": leaf["var"] + 1} for name, leaf in fresh.items()}
    return PatchDiscriminator(ndf=16).apply(
        {"params": params, "batch_stats": fresh},
        nhwc(golden["in/x"]),
        train=True,
        mutable=["batch_stats"],
    )


def test_train_mode_logits_match_the_reference(golden, train_pass):
    expected = nhwc(golden["out/logits_train_mode_x"])
    assert largest_relative_error(train_pass[0], expected) < 1e-5


def test_running_statistics_after_one_step_match_the_reference(imported, train_pass):
    expected = trees.flatten(imported[1])
    actual = trees.flatten(train_pass[1]["batch_stats"])
    assert set(actual) == set(expected) and len(expected) == 6
    for name in expected:
        assert largest_relative_error(actual[name], expected[name]) < 1e-5, name


def test_eval_mode_logits_and_losses_match_the_reference(golden, imported, train_pass):
    params, stats = imported
    logits = PatchDiscriminator(ndf=16).apply(
        {"params": params, "batch_stats": stats}, nhwc(golden["in/y"]), train=False
    )
    expected = nhwc(golden["out/logits_eval_mode_y_after"])
    assert largest_relative_error(logits, expected) < 1e-5
    real = train_pass[0]
    assert largest_relative_error(hinge_loss(real, logits), golden["out/hinge"]) < 1e-5
    vanilla = vanilla_loss(real, logits)
    assert largest_relative_error(vanilla, golden["out/vanilla"]) < 1e-5


@pytest.mark.parametrize(
    ("num_layers", "num_params", "grid"), [(3, 2_765_633, 30), (2, 663_361, 62)]
)
def test_published_sizes(num_layers, num_params, grid):
    model = PatchDiscriminator(num_layers=num_layers)
    shapes = shapes_of(model, size=256)
    assert trees.num_elements(shapes["params"]) == num_params
    logits = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=False),
        shapes,
        jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32),
    )
    assert logits.shape == (2, grid, grid, 1)


def test_initialisation_has_the_published_spread():
    model = PatchDiscriminator(ndf=32)
    image = jnp.zeros((1, 32, 32, 3))
    init = jax.jit(lambda key: model.init(key, image, train=False))
    params = init(jax.random.key(0))["params"]
    assert np.isclose(np.std(params["conv_3"]["kernel"]), 0.02, rtol=0.02)
    assert abs(np.mean(params["norm_3"]["scale"]) - 1) < 0.01
    assert np.isclose(np.std(params["norm_3"]["scale"]), 0.02, rtol=0.3)
    assert np.max(np.abs(params["conv_0"]["bias"])) <= 48**-0.5


def test_an_image_too_small_for_the_layers_is_refused_with_its_size():
    model = PatchDiscriminator(num_layers=3)
    with pytest.raises(ValueError, match="at least 24 pixels, but these are 16x16"):
        model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False)
