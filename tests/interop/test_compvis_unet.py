"""Every published denoiser: parameter count, names and shapes, both ways."""

import gzip
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ldm_jax import trees
from ldm_jax.backbones import UNet
from ldm_jax.interop.compvis_unet import unet_rules
from ldm_jax.interop.rename import our_name
from ldm_jax.nn.conditioning import Conditioning

KEYS = Path(__file__).parents[1] / "golden" / "keys"

# ldm_facts, table of the zoo: parameters of each denoiser.
NUM_PARAMS = {
    "celeba256": 274_056_163,
    "ffhq256": 274_056_163,
    "lsun_beds256": 274_056_163,
    "lsun_churches256": 294_966_916,
    "cin256": 394_984_196,
    "cin256-v2": 400_920_579,
    "text2img256": 403_623_939,
    "txt2img-1p4B-eval": 872_300_484,
    "layout2img-openimages256": 246_277_379,
    "semantic_synthesis256": 215_229_315,
    "semantic_synthesis512": 215_229_315,
    "bsr_sr": 113_622_563,
    "inpainting_big": 387_245_827,
    "rdm768x768": 1_335_480_400,
    "sd_v1": 859_520_964,
}


def published_unet(config: dict) -> UNet:
    """Our fields for a published `unet_config`."""
    uses_transformer = config.get("use_spatial_transformer", False)
    return UNet(
        out_channels=config["out_channels"],
        model_channels=config["model_channels"],
        channel_mult=tuple(config["channel_mult"]),
        num_res_blocks=config["num_res_blocks"],
        attention_resolutions=tuple(config["attention_resolutions"]),
        attention="transformer" if uses_transformer else "plain",
        num_heads=config.get("num_heads"),
        num_head_channels=config.get("num_head_channels"),
        transformer_depth=config.get("transformer_depth", 1),
        time_conditioning="film" if config.get("use_scale_shift_norm") else "add",
        resampling="resblock" if config.get("resblock_updown") else "conv",
    )


def parameter_shapes(unet: UNet, config: dict) -> dict[str, tuple[int, ...]]:
    """Flat names and shapes of the parameters; allocates nothing."""
    context_dim = config.get("context_dim")
    side = unet.downsampling_factor

    def init():
        tokens = jnp.zeros((1, 2, context_dim)) if context_dim else None
        return unet.init(
            jax.random.key(0),
            jnp.zeros((1, side, side, config["in_channels"])),
            jnp.zeros(1),
            Conditioning(tokens=tokens),
        )["params"]

    flat = trees.flatten(jax.eval_shape(init))
    return {name: leaf.shape for name, leaf in flat.items()}


def torch_shape_in_our_layout(name: str, shape: list[int]) -> tuple[int, ...]:
    """Convolution kernels keep their rank; only 1-d convolutions lose the last axis."""
    if not name.endswith("/kernel"):
        return tuple(shape)
    if len(shape) == 4:
        return (shape[2], shape[3], shape[1], shape[0])
    return (shape[1], shape[0])


@pytest.mark.parametrize("model", sorted(NUM_PARAMS))
def test_published_denoiser_maps_one_to_one_onto_ours(model):
    manifest = json.loads(
        gzip.decompress((KEYS / f"unet_{model}.json.gz").read_bytes())
    )
    unet = published_unet(manifest["unet_config"])
    shapes = parameter_shapes(unet, manifest["unet_config"])
    assert sum(map(math.prod, shapes.values())) == NUM_PARAMS[model]

    rules = unet_rules(unet)
    mapped = {}
    for torch_name, torch_shape in manifest["keys"].items():
        name = our_name(torch_name, rules, shapes)
        assert name in shapes, f"{torch_name} has no counterpart"
        assert name not in mapped, f"{torch_name} and {mapped[name]} are both {name}"
        mapped[name] = torch_name
        assert torch_shape_in_our_layout(name, torch_shape) == shapes[name]
    assert set(mapped) == set(shapes)


def test_rules_are_literal_but_for_transformer_indices():
    # What makes them readable backwards, and cheap: they fit in re's cache.
    unet = UNet(4, attention_resolutions=(1, 2), attention="transformer", num_heads=1)
    rules = unet_rules(unet)
    for pattern, *_ in rules:
        assert not set(pattern.replace(r"\.", "").replace(r"(\d+)", "")) & set(
            ".*+?[(|"
        )
    assert len({pattern for pattern, *_ in rules}) == len(rules)
