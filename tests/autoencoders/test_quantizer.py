"""Vector quantisation: choice of codes, gradients, losses, usage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.autoencoders import quantizer


def example():
    codebook = jax.random.normal(jax.random.key(0), (7, 3))
    z = jax.random.normal(jax.random.key(1), (2, 4, 5, 3))
    return z, codebook


def test_the_nearest_code_is_chosen():
    z, codebook = example()
    distance = np.square(np.array(z)[..., None, :] - np.array(codebook)).sum(-1)
    np.testing.assert_array_equal(
        quantizer.nearest_codes(z, codebook), distance.argmin(-1)
    )


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other():
    z, codebook = example()
    target = jax.random.normal(jax.random.key(2), z.shape)

    def loss(z):
        z_q = codebook[quantizer.nearest_codes(z, codebook)]
        out = quantizer.straight_through(z, z_q)
        return (out * target).sum(), (out, z_q)

    gradient, (out, z_q) = jax.grad(loss, has_aux=True)(z)
    np.testing.assert_allclose(out, z_q, atol=1e-6)
    np.testing.assert_array_equal(gradient, target)


@pytest.mark.parametrize(
    ("form", "to_encoder", "to_codebook"), [("legacy", 1.0, 0.25), ("paper", 0.25, 1.0)]
)
def test_beta_weights_the_term_that_the_form_says(form, to_encoder, to_codebook):
    z, codebook = example()
    z_q = codebook[quantizer.nearest_codes(z, codebook)]

    def loss(z, z_q):
        return quantizer.codebook_loss(z, z_q, beta=0.25, form=form)

    value, (dz, dz_q) = jax.value_and_grad(loss, (0, 1))(z, z_q)
    assert value == pytest.approx(1.25 * float(jnp.square(z - z_q).mean()), rel=1e-6)
    pull = 2 * (z - z_q) / z.size
    np.testing.assert_allclose(dz, to_encoder * pull, rtol=1e-5)
    np.testing.assert_allclose(dz_q, -to_codebook * pull, rtol=1e-5)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match='"legacy" or "paper"'):
        quantizer.codebook_loss(jnp.zeros(3), jnp.zeros(3), form="new")


def test_usage_counts_codes():
    even = quantizer.usage(jnp.array([[0, 1], [2, 3]]), 8)
    single = quantizer.usage(jnp.zeros((2, 2), int), 8)
    assert even["perplexity"] == pytest.approx(4.0, rel=1e-5)
    assert even["usage"] == 4
    assert single["perplexity"] == pytest.approx(1.0, rel=1e-5)
    assert single["usage"] == 1


def test_the_codebook_starts_within_one_over_its_size():
    module = quantizer.Quantizer(512, 4)
    z = jnp.zeros((1, 1, 1, 4))
    params = module.init(jax.random.key(0), z, method="indices")["params"]
    assert params["embedding"].shape == (512, 4)
    assert 0.99 / 512 < jnp.abs(params["embedding"]).max() <= 1 / 512
