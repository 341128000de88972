"""What sets the two bottlenecks apart."""

import jax
import numpy as np
from tiny_autoencoder import KEY, TINY, call, random_params

from ldm_jax.autoencoders import Code, Gaussian, KLAutoencoder, VQAutoencoder


def test_kl_bottleneck_samples_and_averages_the_divergence():
    latent = Gaussian.from_moments(jax.random.normal(KEY, (3, 4, 4, 6)))
    z, loss, metrics = KLAutoencoder(3, 3).bottleneck(latent, KEY)
    np.testing.assert_array_equal(z, latent.sample(KEY))
    np.testing.assert_allclose(loss, latent.kl().mean())
    assert metrics["posterior_std"] > 0


def test_vq_bottleneck_quantises_and_decode_accepts_what_diffusion_gives():
    module = VQAutoencoder(**TINY, num_embeddings=16)
    params = random_params(module)
    z = jax.random.normal(KEY, (2, 4, 4, 3)) / 4

    def both(module, z):
        codes = module.code_indices(z)
        decoded = module.decode(z), module.decode_indices(codes)
        unquantised = module.to_image(module.decode_features(z))
        bottleneck = module.bottleneck(Code(z), KEY)
        return bottleneck, codes, decoded, unquantised

    (z_q, loss, metrics), codes, decoded, unquantised = call(
        module, params, z, method=both
    )
    np.testing.assert_allclose(z_q, params["quantizer"]["embedding"][codes], atol=1e-6)
    assert loss > 0
    assert metrics["usage"] == len(np.unique(codes)) > 1
    np.testing.assert_allclose(*decoded, atol=1e-6)
    assert np.abs(decoded[0] - unquantised).max() > 1e-3
