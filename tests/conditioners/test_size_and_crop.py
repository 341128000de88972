"""Size and crop: six numbers, one vector, kept on both sides of guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioners import ClassLabel, Compose, Concat, SizeAndCrop
from ldm_jax.conditioners.size_and_crop import default_geometry
from ldm_jax.nn.conditioning import stack
from ldm_jax.nn.embeddings import timestep_embedding

KEY = jax.random.key(0)
GEOMETRY = jnp.array([[64, 48, 3, 0, 32, 32], [640, 480, 0, 9, 32, 32]])


def test_each_number_has_its_place_in_the_embedding():
    module = SizeAndCrop(embed_dim=8, frequency_dim=4)
    cond, variables = module.init_with_output(KEY, {"geometry": GEOMETRY})
    assert cond.vector.shape == (2, 8) and cond.tokens is None and cond.concat is None
    params = variables["params"]
    assert params["dense_0"]["kernel"].shape == (24, 8)
    embedded = [timestep_embedding(GEOMETRY[:, i], 4) for i in range(6)]
    hidden = jnp.concatenate(embedded, -1) @ params["dense_0"]["kernel"]
    hidden = jax.nn.silu(hidden + params["dense_0"]["bias"])
    expected = hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]
    np.testing.assert_allclose(cond.vector, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 5), (6,)])
def test_other_shapes_are_named(shape):
    module = SizeAndCrop(embed_dim=8)
    with pytest.raises(ValueError, match="'geometry' has shape"):
        module.init(KEY, {"geometry": jnp.zeros(shape, jnp.int32)})


def test_the_default_is_an_uncropped_picture_of_that_size():
    assert default_geometry(512, 768).tolist() == [512, 768, 0, 0, 512, 768]


def test_guidance_leaves_out_the_class_and_keeps_size_and_crop():
    parts = (
        ClassLabel(3, 8, slot="vector", name="label"),
        SizeAndCrop(8, name="geometry"),
        Concat("low_res", name="low_res"),
    )
    module = Compose(parts)
    assert module.fields == ("class_label", "geometry", "low_res") and module.has_null
    batch = {
        "class_label": jnp.array([0, 1]),
        "geometry": GEOMETRY,
        "low_res": jnp.ones((2, 4, 4, 3)),
    }
    variables = module.init(KEY, batch)
    cond = module.apply(variables, batch)
    null = module.apply(variables, 2, batch, method="null")
    table = variables["params"]["label"]["embedding"]["embedding"]
    np.testing.assert_allclose(
        cond.vector - null.vector, table[jnp.array([0, 1])] - table[3], atol=1e-5
    )
    assert not np.allclose(null.vector[0], null.vector[1])
    np.testing.assert_array_equal(stack(null, cond).concat, jnp.ones((4, 4, 4, 3)))
    alone = module.apply(variables, 2, method="null")
    np.testing.assert_allclose(alone.vector, table[jnp.array([3, 3])])
