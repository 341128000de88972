"""CLIP score of pictures on their way to other metrics, from a folder of transformers."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from ldm_jax.conditioners import ClipText
from ldm_jax.data.tokenizers import load_tokenizer
from ldm_jax.evaluating.picture_sets import PictureSet
from ldm_jax.evaluating.picture_stream import Batches
from ldm_jax.evaluation.bootstrap import mean_interval
from ldm_jax.evaluation.clip_score import clip_score
from ldm_jax.evaluation.extraction import extract_fn
from ldm_jax.evaluation.sample_metrics import Result
from ldm_jax.features import weight_files
from ldm_jax.features.networks import find_network
from ldm_jax.interop.diffusers_text import CLIP_TEXT_RULES, with_text_model_prefix
from ldm_jax.interop.rename import import_state_dict
from ldm_jax.nn.jit import jit

EmbedTexts = Callable[[Sequence[str]], Float[np.ndarray, "n d"]]


class ClipScorer:
    """Scores pictures against their texts as they pass, picture k against text k mod n."""

    def __init__(self, folder: str | Path, prompts: Sequence[str], batch_size: int):
        """Open the CLIP in `folder`, a `CLIPModel` as transformers saves it.

        Raises:
          FileNotFoundError, ValueError: one sentence for what is missing or damaged; or
            there are no prompts, or several processes.
        """
        if not prompts:
            raise ValueError("the CLIP score compares with texts: give --prompts=FILE")
        if jax.process_count() > 1:
            raise ValueError("the CLIP score runs in one process: leave clip_score out")
        network = find_network("clip", folder)
        self._sha256 = network.weights_sha256
        self._extract = extract_fn(network, batch_size)
        self._prompts = list(prompts)
        self._texts = text_embedder(folder)(self._prompts)
        self._scores: list[np.ndarray] = []
        self._count = 0

    def watch(self, pictures: PictureSet) -> PictureSet:
        """The same pictures, seen."""

        def read(batch_size: int, share: tuple[int, int]) -> Batches:
            for pixels in pictures.read(batch_size, share):
                self._see(pixels)
                yield pixels

        return replace(pictures, read=read)

    def add_to(self, result: Result) -> None:
        """Put the mean over all pictures seen into the table."""
        scores = np.concatenate(self._scores)
        result.values["clip_score"] = float(scores.mean())
        result.intervals["clip_score"] = mean_interval(scores)
        result.settings["clip_score"] = {
            "weights_sha256": self._sha256,
            "scale": 100,
            "num_prompts": len(self._prompts),
        }

    def _see(self, pixels: UInt8[np.ndarray, "b H W 3"]) -> None:
        images = self._extract(pixels)["pool"]
        rows = np.arange(self._count, self._count + len(pixels)) % len(self._texts)
        self._scores.append(clip_score(images, self._texts[rows]))
        self._count += len(pixels)


def text_embedder(folder: str | Path) -> EmbedTexts:
    """Texts to CLIP's projected embeddings, of unit length.

    Raises:
      FileNotFoundError, ValueError: one sentence for what is missing or damaged.
    """
    folder = Path(folder)
    config, file = folder / "config.json", folder / "model.safetensors"
    for path in (config, file):
        if not path.is_file():
            raise FileNotFoundError(
                f"no {path.name} in {folder}: the CLIP score needs text and image encoder "
                "as transformers' CLIPModel.save_pretrained writes them"
            )
    module, length = _module(json.loads(config.read_text()))
    state = weight_files.read_state_dict(file, prefixes=("text_",))
    batch = {"tokens": jnp.zeros((1, length), jnp.int32)}
    template = jax.eval_shape(lambda: module.init(jax.random.key(0), batch))["params"]
    state = with_text_model_prefix(state)
    params, _, missing = import_state_dict(state, CLIP_TEXT_RULES, template)
    if missing:
        raise ValueError(f"{file} lacks {missing[0]}: give the folder of a CLIPModel")
    tokenizer = load_tokenizer("clip", _vocabulary(folder), length)

    @jit
    def embed(params: Any, tokens: jax.Array) -> jax.Array:
        conditioning: Any = module.apply({"params": params}, {"tokens": tokens})
        return conditioning.tokens[:, 0]

    def embed_all(texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        rows = [np.asarray(embed(params, x)) for x in _chunks(tokenizer(texts))]
        return np.concatenate(rows)[: len(texts)]

    return embed_all


def _module(config: dict[str, Any]) -> tuple[ClipText, int]:
    """The text encoder that a CLIPModel's config describes, and its length."""
    text = config.get("text_config", config)
    module = ClipText(
        width=text["hidden_size"],
        num_layers=text["num_hidden_layers"],
        num_heads=text["num_attention_heads"],
        vocab_size=text.get("vocab_size", 49_408),
        max_length=text.get("max_position_embeddings", 77),
        activation=text.get("hidden_act", "quick_gelu"),
        output="pooled",
    )
    return module, module.max_length


def _vocabulary(folder: Path) -> str:
    """The folder's own vocabulary, or "" for the one that comes with this package."""
    has_own = (folder / "vocab.json").is_file() or (folder / "tokenizer.json").is_file()
    return str(folder) if has_own else ""


def _chunks(tokens: np.ndarray, size: int = 64) -> Iterator[np.ndarray]:
    """Rows in pieces of one size, the last filled up."""
    for start in range(0, len(tokens), size):
        yield tokens[np.arange(start, start + size) % len(tokens)]
