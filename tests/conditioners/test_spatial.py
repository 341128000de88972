"""Maps: label maps, masked pictures, and conditions of several parts."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioners import (
    CONDITIONERS,
    ClassLabel,
    Compose,
    Concat,
    Inpainting,
    Precomputed,
    SpatialRescaler,
)
from ldm_jax.conditioners.inpainting import resize_nearest
from ldm_jax.nn.conditioning import stack
from tests.tiny_latent_diffusion import tiny_batch, tiny_model, tiny_params

GOLDEN = Path(__file__).parents[1] / "golden"
LABELS = jnp.array(np.random.default_rng(0).integers(0, 5, (2, 16, 16)), jnp.int32)


def _run(conditioner, batch, **kwargs):
    variables = conditioner.init(jax.random.key(0), batch)
    return conditioner.apply(variables, batch, **kwargs)


def test_the_spatial_rescaler_gives_the_references_numbers():
    data = np.load(GOLDEN / "spatial_rescaler.npz")
    kernel = data["sd/channel_mapper.weight"][:, :, 0, 0].T
    conditioner = SpatialRescaler(num_classes=5)
    batch = {"segmentation": data["in/x"].transpose(0, 2, 3, 1)}
    params = {"channel_mapper": {"kernel": kernel}}
    cond = conditioner.apply({"params": params}, batch)
    np.testing.assert_allclose(
        cond.concat, data["out/y"].transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6
    )


def test_labels_are_one_hot_and_strangers_have_no_class():
    conditioner = SpatialRescaler(num_classes=5)
    params = conditioner.init(jax.random.key(0), {"segmentation": LABELS})
    one_hot = {"segmentation": jax.nn.one_hot(LABELS, 5)}
    cond = conditioner.apply(params, {"segmentation": LABELS})
    assert cond.concat.shape == (2, 4, 4, 3)
    np.testing.assert_allclose(cond.concat, conditioner.apply(params, one_hot).concat)
    unlabelled = {"segmentation": jnp.full((1, 8, 8), 255)}
    np.testing.assert_array_equal(conditioner.apply(params, unlabelled).concat, 0)


def test_the_published_rescaler_has_546_parameters():
    shapes = jax.eval_shape(
        SpatialRescaler(num_classes=182).init,
        jax.random.key(0),
        {"segmentation": LABELS},
    )
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 546


def test_a_label_map_of_another_form_is_named():
    with pytest.raises(ValueError, match="num_classes=5"):
        _run(SpatialRescaler(num_classes=5), {"segmentation": jnp.zeros((1, 8, 8, 3))})


def test_a_hole_is_resized_as_torch_does():
    torch = pytest.importorskip("torch")
    hole = np.random.default_rng(0).random((1, 12, 20, 1), np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(hole.transpose(0, 3, 1, 2)), size=(5, 8)
    )
    np.testing.assert_array_equal(
        resize_nearest(hole, 5, 8), theirs.numpy().transpose(0, 2, 3, 1)
    )


def test_both_orders_of_inpainting_name_their_channels():
    latent = jnp.full((1, 2, 2, 3), 7.0)
    hole = jnp.zeros((1, 8, 8, 1)).at[:, :4].set(1)
    batch = {"masked_image": latent, "hole": hole}
    ldm = _run(Inpainting("latent_first"), batch).concat
    np.testing.assert_array_equal(ldm[0, :, 0], [[7, 7, 7, 1], [7, 7, 7, -1]])
    sd = _run(Inpainting("mask_first"), batch).concat
    np.testing.assert_array_equal(sd[0, :, 0], [[1, 7, 7, 7], [0, 7, 7, 7]])
    with pytest.raises(ValueError, match="conditioner.order is 'sd'"):
        _run(Inpainting("sd"), batch)


def test_embeddings_pass_through_and_drop_to_zeros():
    batch = {"neighbors": jnp.ones((1000, 2, 4))}
    conditioner = Precomputed(embed_dim=4, num_tokens=2, drop_rate=0.3)
    np.testing.assert_array_equal(_run(conditioner, batch).tokens, batch["neighbors"])
    drop = {"drop": jax.random.key(1)}
    tokens = conditioner.apply({}, batch, train=True, rngs=drop).tokens
    share = np.mean(np.all(np.asarray(tokens) == 0, axis=(1, 2)))
    assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 1000)
    assert set(np.unique(tokens)) == {0, 1}
    assert conditioner.apply({}, 3, method="null").tokens.shape == (3, 2, 4)
    with pytest.raises(ValueError, match="embed_dim"):
        _run(Precomputed(embed_dim=5), batch)


def _hybrid():
    batch = {
        "class_label": jnp.array([0, 1]),
        "masked_image": jnp.ones((2, 2, 2, 4)),
        "hole": jnp.ones((2, 4, 4, 1)),
    }
    label = ClassLabel(num_classes=3, embed_dim=4, name="label")
    return Compose((label, Inpainting("mask_first", name="hole"))), batch


def test_a_hybrid_fills_the_slots_of_its_parts():
    conditioner, batch = _hybrid()
    variables = conditioner.init(jax.random.key(0), batch)
    assert list(variables["params"]) == ["label"]
    cond = conditioner.apply(variables, batch)
    assert cond.tokens.shape == (2, 1, 4) and cond.concat.shape == (2, 2, 2, 5)
    assert conditioner.fields == ("class_label", "masked_image", "hole")
    assert conditioner.latent_fields == ("masked_image",)
    assert conditioner.has_params and conditioner.has_null


def test_guidance_of_a_hybrid_keeps_the_map():
    conditioner, batch = _hybrid()
    variables = conditioner.init(jax.random.key(0), batch)
    cond = conditioner.apply(variables, batch)
    null = conditioner.apply(variables, 2, method="null")
    assert null.concat is None
    both = stack(null, cond)
    np.testing.assert_array_equal(both.concat[:2], cond.concat)
    assert np.any(both.tokens[:2] != both.tokens[2:])


def test_a_hybrid_of_maps_alone_has_neither_parameters_nor_null():
    conditioner = Compose((Concat("low_res", name="a"), Inpainting(name="b")))
    assert not conditioner.has_params and not conditioner.has_null
    with pytest.raises(ValueError, match="no part"):
        conditioner.apply({}, 2, method="null")


@pytest.mark.parametrize("name", ["concat", "spatial_rescaler", "inpainting"])
def test_a_map_alone_cannot_be_left_out(name):
    fields = {"concat": {"field": "low_res"}, "spatial_rescaler": {"num_classes": 2}}
    conditioner = CONDITIONERS[name](**fields.get(name, {}))
    with pytest.raises(ValueError, match="guidance_scale=1"):
        conditioner.apply({}, 2, method="null")


def test_a_masked_picture_enters_as_a_scaled_latent():
    ldm = tiny_model(conditioner=Inpainting("mask_first"))
    batch = tiny_batch(2)
    batch |= {"masked_image": batch["image"], "hole": jnp.ones((2, 8, 8, 1))}
    _, frozen = tiny_params(tiny_model(), batch)
    cond = ldm.condition({}, frozen, batch, latent_scale=0.5)
    variables = {"params": frozen["autoencoder"]}
    latent = ldm.autoencoder.apply(variables, batch["image"], method="encode").mode()
    np.testing.assert_allclose(cond.concat[..., 1:], 0.5 * latent, rtol=1e-5)
    with pytest.raises(ValueError, match="latent_scale"):
        ldm.condition({}, frozen, batch)
    params = jax.eval_shape(ldm.init_params, jax.random.key(0), batch)
    assert params.keys() == {"backbone"}
