"""Which published model a file of weights is, by its names and shapes.

Describing a model exactly takes about a second, so a few telling tensors, which follow
from a config at once, choose whom to look at.
"""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false

import dataclasses
from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from ldm_jax.conversion import describing
from ldm_jax.interop.compvis import DENOISER, FIRST_STAGE
from ldm_jax.interop.compvis_conditioner import CONDITIONER
from ldm_jax.interop.matching import Infos, Match, match

Candidates = Mapping[str, Callable[[], ConfigDict]]
Shape = tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a file was recognised as.

    Attributes:
      models: names of the candidates that it fits exactly.
      nearest: the name of the one that it fits best; "" without candidates.
      match: the comparison with that one.
    """

    models: tuple[str, ...]
    nearest: str
    match: Match

    def sentence(self) -> str:
        """For an error message: which model it is, or is nearest to."""
        if self.models:
            return f"it is {' or '.join(self.models)}"
        if not self.nearest:
            return "no published model is near"
        return f"it is nearest to {self.nearest} ({self.match.difference()})"


def identify(infos: Infos, candidates: Candidates) -> Identity:
    """Find the candidates that a file fits.

    Args:
      infos: dtype and shape of its tensors by name.
      candidates: configs by name, made when they are needed.
    """
    configs = {name: make() for name, make in candidates.items()}
    scores = {name: _score(infos, config) for name, config in configs.items()}
    likely = [name for name, score in scores.items() if score == 1.0]
    found: dict[str, Match] = {}
    described: dict[str, Match] = {}
    for name in likely:
        key = _architecture(configs[name])
        if key not in described:
            described[key] = compare(infos, configs[name])
        found[name] = described[key]
    models = tuple(name for name, result in found.items() if result.is_exact)
    if models:
        return Identity(models, models[0], found[models[0]])
    if not scores:
        return Identity((), "", match(infos, ()))
    nearest = max(scores, key=lambda name: scores[name])
    result = found.get(nearest) or compare(infos, configs[nearest])
    return Identity((nearest,) if result.is_exact else (), nearest, result)


def compare(infos: Infos, config: ConfigDict) -> Match:
    """A file against one config."""
    description = describing.describe(config)
    return match(infos, description.parts, description.known)


def telling_shapes(config: ConfigDict) -> dict[str, Shape]:
    """Shapes of a few tensors that a config fixes; None for those that it has not."""
    is_whole = config.task == "denoising"
    shapes = _first_stage_shapes(config, FIRST_STAGE if is_whole else "")
    if not is_whole:
        return shapes
    unet = config.backbone
    width, blocks = unet.model_channels, unet.num_res_blocks
    levels = len(unet.channel_mult)
    last = f"{DENOISER}input_blocks.{levels * (blocks + 1) - 1}.0.out_layers.0.weight"
    middle = width * unet.channel_mult[-1]
    has_transformer = unet.get("attention", "plain") == "transformer"
    norm = f"{DENOISER}middle_block.1.transformer_blocks.0.norm1.weight"
    shapes |= {
        f"{DENOISER}time_embed.0.weight": (4 * width, width),
        f"{DENOISER}middle_block.0.in_layers.0.weight": (middle,),
        last: (middle,),
        norm: (middle,) if has_transformer else None,
    }
    return shapes | _conditioner_shapes(config, middle)


def _conditioner_shapes(config: ConfigDict, middle: int) -> dict[str, Shape]:
    """Of the tables, the tokens' width, and the channels that the denoiser reads."""
    conditioner, latent = config.conditioner, config.autoencoder.embed_dim
    sections = [conditioner, *(v for v in conditioner.values() if hasattr(v, "name"))]
    table = f"{CONDITIONER}embedding.weight"
    token_table = f"{CONDITIONER}transformer.token_emb.weight"
    shapes: dict[str, Shape] = {table: None, token_table: None}
    tokens_dim, joined = None, {"inpainting": latent + 1, "concat": latent}
    channels = latent
    for section in sections:
        tokens_dim = section.get("width", section.get("embed_dim", tokens_dim))
        channels += joined.get(section.name, section.get("out_channels", 0))
        if section.name == "class_label" and section.get("slot") != "vector":
            rows = section.num_classes + section.get("has_null", True)
            shapes[table] = (rows, section.embed_dim)
        if section.name == "token_transformer":
            rows = section.get("vocab_size", 30_522)
            shapes[token_table] = (rows, section.embed_dim)
    if tokens_dim and config.backbone.get("attention", "plain") == "transformer":
        key = f"{DENOISER}middle_block.1.transformer_blocks.0.attn2.to_k.weight"
        shapes[key] = (middle, tokens_dim)
    stem = f"{DENOISER}input_blocks.0.0.weight"
    return shapes | {stem: (config.backbone.model_channels, channels, 3, 3)}


def _first_stage_shapes(config: ConfigDict, prefix: str) -> dict[str, Shape]:
    section = config.autoencoder
    is_vq = section.name == "vq"
    deepest = section.ch * section.ch_mult[-1]
    last = f"{prefix}encoder.down.{len(section.ch_mult) - 1}.block.0.norm2.weight"
    moments = section.embed_dim * (1 if is_vq else 2)
    codebook = (section.num_embeddings, section.embed_dim) if is_vq else None
    has_attention = section.get("mid_attention", True)
    return {
        f"{prefix}quant_conv.bias": (moments,),
        f"{prefix}quantize.embedding.weight": codebook,
        last: (deepest,),
        f"{prefix}encoder.mid.attn_1.norm.weight": (deepest,)
        if has_attention
        else None,
    }


def _score(infos: Infos, config: ConfigDict) -> float:
    """The share of the telling tensors that are as they should be."""
    shapes = telling_shapes(config)
    agree = [
        name not in infos if shape is None else _has(infos, name, shape)
        for name, shape in shapes.items()
    ]
    return sum(agree) / len(agree)


def _has(infos: Infos, name: str, shape: tuple[int, ...]) -> bool:
    return name in infos and tuple(infos[name][1]) == shape


def _architecture(config: ConfigDict) -> str:
    """Equal for configs whose files cannot be told apart."""
    names = ("task", "autoencoder", "backbone", "conditioner", "adversarial")
    return repr([config.get(name) for name in names])
