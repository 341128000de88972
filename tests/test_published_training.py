"""Every published denoiser takes an optimisation step, at reduced width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import build, run
from ldm_jax import config as config_lib
from tests.published_models import CONFIGS, config_of, narrow

# celebahq_f4 and lsun_bedrooms_f4 are ffhq_f4 with other data and rates, and so on.
SAME = ("celebahq_f4", "lsun_bedrooms_f4", "semantic_landscapes_f4:512")
DENOISERS = sorted(
    {name for name in CONFIGS.values() if not name.startswith("autoencoder")}
    - set(SAME)
    | {"sd_v1_inpaint", "sd_v2"}
)

# The others run under `make test-full`.
QUICK = ("lsun_churches_f8", "semantic_landscapes_f4")


def random_like(shapes, seed=0):
    """Arrays of these shapes: small normal numbers, small integers."""
    random = np.random.default_rng(seed)

    def draw(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return random.integers(0, 3, leaf.shape, np.int32)
        return 0.2 * random.standard_normal(leaf.shape, np.float32)

    return jax.tree.map(draw, shapes)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.full)
        for name in DENOISERS
    ],
)
def test_a_published_model_takes_a_step(name):
    config = narrow(config_of(name))
    config.optimizer.schedule = {"name": "constant"}  # warm-ups begin at nothing
    config_lib.check(config)
    experiment = build.experiment(config)
    key = jax.random.key(0)
    state = jax.eval_shape(run.create_fn(config, experiment), key)
    batch = build.example_batch(config, 2, experiment.ldm.conditioner)
    frozen = jax.eval_shape(experiment.autoencoder.init, key, batch["image"], key)
    params = random_like(state.params)
    state = state.replace(
        step=jnp.int32(0),
        params=params,
        ema=random_like(state.ema),
        opt_state=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state.opt_state),
        collections={"latent_scale": np.float32(1)},
    )
    arguments = (
        state,
        {"autoencoder": random_like(frozen["params"])},
        random_like(batch),
    )
    step = jax.jit(run.step_fn(config, experiment, key)).lower(*arguments)
    # Compiles in two thirds of the time.
    step = step.compile(compiler_options={"xla_cpu_use_fusion_emitters": False})
    state, metrics = step(*arguments)
    assert np.isfinite(metrics["loss"]) and metrics["denoiser/grad_norm"] > 0
    trained = experiment.task.objectives["denoiser"].trains
    for group, before in params.items():
        moved = [
            bool(np.any(new != old))
            for new, old in zip(
                jax.tree.leaves(state.params[group]),
                jax.tree.leaves(before),
                strict=True,
            )
        ]
        assert any(moved) == (group in trained), group
    assert state.ema.keys() == set(trained)


def test_text_encoders_of_stable_diffusion_are_frozen():
    for name in ("sd_v1", "sd_v1_inpaint", "sd_v2"):
        config = narrow(config_of(name))
        objective = build.experiment(config).task.objectives["denoiser"]
        assert objective.trains == ("backbone",)
        config.conditioner.trainable = True
        objective = build.experiment(config).task.objectives["denoiser"]
        assert objective.trains == ("backbone", "conditioner")
