"""Tiny first stages with random weights against numbers recorded from the reference."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.autoencoders import KLAutoencoder, VQAutoencoder
from ldm_jax.interop.compvis_autoencoder import AUTOENCODER_RULES
from ldm_jax.interop.rename import import_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"
KEY = jax.random.key(0)
TINY = {"ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "resolution": 32}


def load(name, module):
    """The recorded arrays (NHWC), and the recorded weights as parameters of `module`."""
    recorded = dict(np.load(GOLDEN / f"{name}.npz"))
    state = {k[3:]: v for k, v in recorded.items() if k.startswith("sd/")}
    arrays = {
        k: v.transpose(0, 2, 3, 1) if v.ndim == 4 else v
        for k, v in recorded.items()
        if not k.startswith("sd/")
    }
    image = jnp.asarray(arrays["in/x"])
    template = jax.eval_shape(module.init, KEY, image, KEY)["params"]
    params, unused, missing = import_state_dict(state, AUTOENCODER_RULES, template)
    assert not unused and not missing
    return arrays, params


def assert_all_close(ours, arrays):
    """Every recorded output, within 1e-5 of its largest value."""
    theirs = {k[4:]: v for k, v in arrays.items() if k.startswith("out/")}
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        atol = 1e-5 * np.abs(value).max()
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=atol, err_msg=name)


def test_kl_autoencoder_matches_the_reference():
    def run(model, image):
        latent = model.encode(image)
        return {
            "mean": latent.mean,
            "logvar": latent.logvar,
            "kl_per_sample": latent.kl(),
            "dec_of_mean": model.decode(latent.mode()),
        }

    model = KLAutoencoder(4, 4, attn_resolutions=(16,), **TINY)
    arrays, params = load("ae_kl", model)
    apply = jax.jit(lambda params, x: model.apply({"params": params}, x, method=run))
    assert_all_close(apply(params, arrays["in/x"]), arrays)


def test_vq_autoencoder_matches_the_reference():
    def run(model, image):
        latent = model.encode(image)
        z_q, loss, _ = model.bottleneck(latent, KEY)
        return {
            "prequant": latent.z,
            "indices": model.code_indices(latent.z).ravel(),
            "zq": z_q,
            "codebook_loss_legacy": loss,
            "dec_quantised": model.decode(latent.z),
            "dec_not_quantised": model.to_image(model.decode_features(latent.z)),
        }

    model = VQAutoencoder(3, 3, num_embeddings=64, **TINY)
    arrays, params = load("ae_vq", model)
    apply = jax.jit(lambda params, x: model.apply({"params": params}, x, method=run))
    assert_all_close(apply(params, arrays["in/x"]), arrays)
