"""What the programs of a config compute and hold, from shapes alone."""

import jax
import pytest

from configs import ffhq_f4, sd_v1
from configs.tiny import autoencoder as tiny_autoencoder
from configs.tiny import ldm as tiny_ldm
from ldm_jax import build, run, trees
from ldm_jax.compiling import report
from ldm_jax.compiling.flops import count_flops
from ldm_jax.compiling.programs import sample_program, train_program
from ldm_jax.training import sharding

needs_eight_devices = pytest.mark.skipif(
    jax.device_count() != 8, reason="needs the eight fake devices of conftest.py"
)


def traced_on(num_devices, program, config, **choices):
    mesh = sharding.make_mesh(devices=jax.devices()[:num_devices])
    return program(config, mesh, **choices)


def test_cached_latents_leave_the_encoder_out():
    config = tiny_ldm.get_config()
    encoded = traced_on(1, train_program, config)
    cached = traced_on(1, train_program, config, latents="cached")
    experiment = build.experiment(config)
    image = build.example_batch(config, config.train.batch_size)["image"]
    params = encoded.arguments["frozen networks"]["autoencoder"]
    encoder = jax.jit(
        lambda params, image: (
            experiment.autoencoder.apply(
                {"params": params}, image, method="encode"
            ).moments
        )
    )
    difference = count_flops(encoded.traced.jaxpr) - count_flops(cached.traced.jaxpr)
    assert difference == count_flops(encoder.trace(params, image).jaxpr)
    assert cached.unused == ("frozen networks",)
    assert set(cached.arguments["batch"]) == {"moments", "class_label"}


def test_a_sampler_costs_its_steps_and_one_decoding():
    def cost(num_steps):
        config = tiny_ldm.get_config()
        config.sampler.num_steps = num_steps
        return count_flops(traced_on(1, sample_program, config).traced.jaxpr)

    step = cost(2) - cost(1)
    assert cost(20) == cost(1) + 19 * step
    assert 0 < cost(1) - step < 5 * step


def test_first_stages_have_a_step_and_no_sampler():
    config = tiny_autoencoder.get_config("vq")
    program = traced_on(1, train_program, config)
    assert set(program.arguments["optimizer"]) == {"generator", "discriminator"}
    assert count_flops(program.traced.jaxpr) > 0
    with pytest.raises(ValueError, match="draws no samples"):
        traced_on(1, sample_program, config)
    with pytest.raises(ValueError, match="no cached latents"):
        traced_on(1, train_program, config, latents="cached")


@needs_eight_devices
@pytest.mark.parametrize("module", [ffhq_f4, sd_v1], ids=["ffhq_f4", "sd_v1"])
def test_fsdp_leaves_an_eighth_of_published_models_on_each_device(module):
    config = module.get_config()
    experiment = build.experiment(config)
    state = jax.eval_shape(run.create_fn(config, experiment), jax.random.key(0))
    shardings = sharding.infer_shardings(state, sharding.make_mesh(1, 8))
    placed = sharding.with_shardings(state, shardings)
    kept = (placed.params, placed.opt_state, placed.ema)
    assert report.bytes_on_device(kept) < 1.01 * trees.num_bytes(kept) / 8
    whole = [
        name
        for name, leaf in trees.flatten(placed).items()
        if leaf.size >= sharding.MIN_FSDP_ELEMENTS and leaf.sharding.is_fully_replicated
    ]
    assert whole == []
