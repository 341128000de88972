"""The `conditioner` and `tokenizer` sections.

`trainable` says whether the conditioner learns beside the denoiser; `checkpoint` is a
workdir to take its parameters from when a training starts: needed if it does not learn.
"""

from ml_collections import ConfigDict

MINILM = "assets/minilm_l4"


def class_label(
    *, num_classes: int, embed_dim: int, has_null: bool, drop_rate: float = 0.0
) -> ConfigDict:
    """A learned table of classes, one token for cross-attention."""
    return _trained(
        name="class_label",
        num_classes=num_classes,
        embed_dim=embed_dim,
        slot="tokens",
        has_null=has_null,
        drop_rate=drop_rate,
    )


def token_transformer(
    *,
    embed_dim: int,
    num_layers: int,
    vocab_size: int = 30_522,
    max_length: int = 77,
    drop_rate: float = 0.0,
) -> ConfigDict:
    """LDM's own transformer over word pieces, or over the tokens of a layout."""
    return _trained(
        name="token_transformer",
        embed_dim=embed_dim,
        num_layers=num_layers,
        vocab_size=vocab_size,
        max_length=max_length,
        drop_rate=drop_rate,
    )


def clip_vit_l(*, drop_rate: float = 0.0) -> ConfigDict:
    """The text half of OpenAI's CLIP ViT-L/14, its last layer: Stable Diffusion 1."""
    return _frozen(
        name="clip_text",
        width=768,
        num_layers=12,
        num_heads=12,
        activation="quick_gelu",
        output="last",
        drop_rate=drop_rate,
    )


def open_clip_vit_h(*, drop_rate: float = 0.0) -> ConfigDict:
    """The text half of OpenCLIP ViT-H/14, its last layer but one: Stable Diffusion 2."""
    return _frozen(
        name="clip_text",
        width=1024,
        num_layers=24,
        num_heads=16,
        activation="gelu",
        output="penultimate",
        drop_rate=drop_rate,
    )


def minilm(*, drop_rate: float = 0.0) -> ConfigDict:
    """The sentence encoder of assets/minilm_l4: four layers of all-MiniLM-L6-v2."""
    section = _frozen(
        name="bert_text",
        width=384,
        num_layers=4,
        num_heads=12,
        drop_rate=drop_rate,
    )
    section.checkpoint = MINILM
    return section


def spatial_rescaler(*, num_classes: int) -> ConfigDict:
    """A label map on the latent grid, as three channels."""
    return _trained(name="spatial_rescaler", num_classes=num_classes, out_channels=3)


def concat(field: str) -> ConfigDict:
    """A map that is on the latent grid already."""
    return _frozen(name="concat", field=field)


def inpainting(order: str) -> ConfigDict:
    """The masked picture's latent and the hole, in the given order of channels."""
    return _frozen(name="inpainting", order=order)


def neighbors(*, embed_dim: int, num_tokens: int) -> ConfigDict:
    """Embeddings found by retrieval."""
    return _frozen(
        name="precomputed",
        field="neighbors",
        embed_dim=embed_dim,
        num_tokens=num_tokens,
        drop_rate=0.0,
    )


def compose(*, trainable: bool = False, **parts: ConfigDict) -> ConfigDict:
    """Several at once, which all learn or all do not."""
    section = _trained(name="compose") if trainable else _frozen(name="compose")
    for name, part in parts.items():
        fields = {k: v for k, v in part.items() if k not in ("trainable", "checkpoint")}
        section[name] = ConfigDict(fields)
    return section


def tokenizer(name: str, *, pad: str = "") -> ConfigDict:
    """Captions to ids; without a `path`, with the vocabulary that comes along."""
    return ConfigDict(
        {
            "name": name,  # bert | clip | none
            "path": "",  # a folder with the vocabulary
            "max_length": 77,
            "pad": pad,  # "" is the vocabulary's own
        }
    )


def own_tokenizer(*, vocab_size: int = 8192, max_length: int = 77) -> ConfigDict:
    """Captions to ids of a vocabulary made of the training's own captions.

    The conditioner's `vocab_size` and `max_length` follow these.
    """
    return ConfigDict(
        {
            "name": "wordpiece",
            "path": "tokenizer",  # in the workdir; made there when a training starts
            "max_length": max_length,
            "vocab_size": vocab_size,
        }
    )


def minilm_tokenizer() -> ConfigDict:
    """Captions to ids of the vocabulary that assets/minilm_l4 keeps."""
    section = own_tokenizer(vocab_size=8000, max_length=20)
    section.path = f"{MINILM}/tokenizer"
    return section


def layout_tokenizer(*, max_objects: int, encode_crop: bool = True) -> ConfigDict:
    """Boxes with classes to ids, for a `token_transformer`: three for each object."""
    return ConfigDict(
        {
            "name": "layout",
            "max_objects": max_objects,
            "encode_crop": encode_crop,  # two tokens more; boxes of the whole picture
            "min_object_area": 1e-4,  # smaller ones are left out; shares of the picture
        }
    )


def size_and_crop() -> ConfigDict:
    """How a training picture was cut: micro-conditioning, beside others in a `compose`."""
    return _trained(name="size_and_crop")


def _trained(**fields) -> ConfigDict:
    return ConfigDict({**fields, "trainable": True, "checkpoint": ""})


def _frozen(**fields) -> ConfigDict:
    return ConfigDict({**fields, "trainable": False, "checkpoint": ""})
