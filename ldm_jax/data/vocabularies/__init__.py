"""Token tables of text encoders: vendored beside this file, or in a folder.

Each vendored folder is laid out as transformers lays out a tokenizer, with its licence
and its source.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VENDORED = Path(__file__).parent

Merges = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Kind:
    """What every vocabulary of one name has in common.

    Attributes:
      size: number of entries; the published encoders' embedding tables have as many
        rows. 0 is any number.
      special: tokens that a text may spell out in full.
      end: closes a text; the usual padding of clip.
      pad_token: the usual padding.
      config: what transformers wants to know in `tokenizer_config.json`.
    """

    size: int
    special: tuple[str, ...]
    end: str
    pad_token: str
    config: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """One table.

    Attributes:
      ids: token -> id, 0 .. size - 1.
      merges: byte pairs in order of rank; empty for word pieces.
      pad_token: what its folder pads with.
    """

    ids: dict[str, int]
    merges: Merges
    pad_token: str


_BERT = Kind(
    size=30_522,
    special=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    end="[SEP]",
    pad_token="[PAD]",
    config={
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
    },
)

VOCABULARIES = {
    "bert": _BERT,
    "wordpiece": dataclasses.replace(_BERT, size=0),  # of one's own captions
    "clip": Kind(
        size=49_408,
        special=("<|startoftext|>", "<|endoftext|>"),
        end="<|endoftext|>",
        pad_token="<|endoftext|>",
        config={
            "tokenizer_class": "CLIPTokenizer",
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
        },
    ),
}


# Those whose table is one token a line.
WORD_PIECES = ("bert", "wordpiece")


def read_vocabulary(name: str, folder: Path | str = "") -> Vocabulary:
    """The vocabulary `name` from `folder`; "" is the vendored one (bert, clip).

    Reads `vocab.txt` (bert, wordpiece), `vocab.json` + `merges.txt` (clip) or else
    `tokenizer.json`, of which only the table is used.

    Raises:
      FileNotFoundError: if there are no such files.
      ValueError: a damaged file, another size, or a special token that is not there.
    """
    folder = Path(folder) if str(folder) else VENDORED / name
    try:
        ids, merges = _read_table(name, folder)
        pad_token = _read_pad_token(folder) or VOCABULARIES[name].pad_token
    except (UnicodeDecodeError, LookupError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"the {name} vocabulary in {folder} is damaged ({error!r}); copy the "
            "tokenizer's files there again"
        ) from error
    _check(name, ids, folder)
    return Vocabulary(ids, merges, pad_token)


def write_word_pieces(folder: Path, ids: Mapping[str, int]) -> None:
    """Write `vocab.txt`: a token a line, in the order of their ids."""
    lines = "".join(f"{token}\n" for token in sorted(ids, key=lambda t: ids[t]))
    (folder / "vocab.txt").write_text(lines, encoding="utf-8", newline="\n")


def _read_table(name: str, folder: Path) -> tuple[dict[str, int], Merges]:
    def has(*files: str) -> bool:
        return all((folder / file).is_file() for file in files)

    if name in WORD_PIECES and has("vocab.txt"):
        lines = _text(folder / "vocab.txt").removesuffix("\n").split("\n")
        return {token: index for index, token in enumerate(lines)}, ()
    if name == "clip" and has("vocab.json", "merges.txt"):
        lines = _text(folder / "merges.txt").splitlines()
        pairs = [line.split() for line in lines if not line.startswith("#version")]
        return json.loads(_text(folder / "vocab.json")), _merges(pairs)
    if has("tokenizer.json"):
        model = json.loads(_text(folder / "tokenizer.json"))["model"]
        pairs = model.get("merges", ())
        pairs = [pair.split() if isinstance(pair, str) else pair for pair in pairs]
        return dict(model["vocab"]), _merges(pairs)
    if name == "wordpiece":
        raise FileNotFoundError(
            f"{folder} holds no wordpiece vocabulary; train.py makes it of the captions, "
            "so give the folder of a training, or set tokenizer.path to one with vocab.txt"
        )
    files = "vocab.txt" if name in WORD_PIECES else "vocab.json and merges.txt"
    raise FileNotFoundError(
        f"{folder} holds no {name} vocabulary; put {files} (or tokenizer.json) there, "
        "or leave tokenizer.path empty for the one that comes with ldm_jax"
    )


def _merges(pairs: Sequence[Sequence[str]]) -> Merges:
    return tuple((pair[0], pair[1]) for pair in pairs if pair)


def _read_pad_token(folder: Path) -> str:
    """The padding that transformers' files name, or ""."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / file).is_file():
            token = json.loads(_text(folder / file)).get("pad_token") or ""
            token = token["content"] if isinstance(token, dict) else token
            if token:
                return token
    return ""


def _check(name: str, ids: Mapping[str, int], folder: Path) -> None:
    kind = VOCABULARIES[name]
    if kind.size and len(ids) != kind.size:
        raise ValueError(
            f"the vocabulary in {folder} has {len(ids):,} entries, but {name} has "
            f"{kind.size:,}; give the folder of the model's own tokenizer"
        )
    missing = [token for token in kind.special if token not in ids]
    if missing or sorted(ids.values()) != list(range(len(ids))):
        what = f"lacks {missing[0]}" if missing else "skips or repeats ids"
        raise ValueError(
            f"the vocabulary in {folder} {what}, so it is not {name}'s; give the folder "
            "of the model's own tokenizer"
        )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
