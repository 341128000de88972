"""A diffusers pipeline is imported, trained for two steps and given back to diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ldm_jax
from configs import ffhq_f4
from ldm_jax import run
from ldm_jax.conversion import importing
from ldm_jax.training import checkpoints

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from tests.parity import torch_diffusers as theirs


@pytest.mark.slow
def test_what_was_trained_here_loads_in_diffusers_and_computes_the_same(tmp_path):
    theirs.ldm_pipeline().save_pretrained(tmp_path / "theirs")
    workdir = tmp_path / "run"
    candidates = {"ffhq_f4": ffhq_f4.get_config}
    importing.import_diffusers(tmp_path / "theirs", workdir, candidates=candidates)

    config = ldm_jax.load(workdir).config
    config.data.update({"source": "emoji64", "image_size": 16})
    config.train.update({"num_steps": 2, "batch_size": 2, "learning_rate": 1e-3})
    config.train.update(dict.fromkeys(("preview_every", "evaluate_every"), 0))
    run.train(config, workdir, devices=jax.devices()[:1])
    assert checkpoints.all_steps(workdir) == [0, 2]
    before, after = (checkpoints.load_params(workdir, step=step) for step in (0, 2))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
    assert min(jax.tree.leaves(moved)) > 0

    folder = importing.export_checkpoint(workdir, "diffusers", tmp_path / "ours")
    pipeline = diffusers.LDMPipeline.from_pretrained(folder)
    model = ldm_jax.load(workdir)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    t = np.array([3, 700])
    with torch.no_grad():
        wanted = pipeline.unet(theirs.nchw(x), torch.from_numpy(t)).sample
    ours = model.ldm.predict(model.params, jnp.asarray(x), jnp.asarray(t), None)
    error = np.abs(np.asarray(ours) - theirs.nhwc(wanted)).max()
    assert error < 1e-4 * np.abs(wanted.numpy()).max()
