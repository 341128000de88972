"""Captions to token ids: BERT's word pieces and CLIP's byte pairs.

The rules are those of transformers' `BertTokenizer` (uncased) and `CLIPTokenizer`, so that
published text encoders see the ids they were trained on. No attention mask comes out:
the published models attend to the padding.

CLIP's own tokenizer first mends broken Unicode (ftfy) and unescapes HTML ("&amp;" -> "&");
transformers and diffusers do not, and neither does this module: clean captions beforehand
if they hold either.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Int32
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors

from ldm_jax.data.vocabularies import (
    VOCABULARIES,
    WORD_PIECES,
    Vocabulary,
    read_vocabulary,
    write_word_pieces,
)

# CLIP's words: contractions, runs of letters, single digits, runs of anything else.
_CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Texts to rows of ids of one length; picklable. Made by `load_tokenizer`.

    Attributes:
      name: "bert", "clip", or "wordpiece": BERT's rules, another vocabulary.
      max_length: ids per text. Longer texts lose their end; the closing token stays.
      pad_token: what fills the rest of a row.
      backend: the `tokenizers` pipeline.
    """

    name: str
    max_length: int
    pad_token: str
    backend: tokenizers.Tokenizer

    def __call__(self, texts: Sequence[str]) -> Int32[np.ndarray, "n l"]:
        """Ids of each text, special tokens and padding included.

        Raises:
          TypeError: if `texts` is one string instead of a list of them.
        """
        if isinstance(texts, str):
            raise TypeError(
                f"the tokenizer takes a list of texts, not the one text {texts!r}; "
                "put it in a list"
            )
        # One by one: encode_batch starts threads, which forked loader workers may not.
        rows = [self.backend.encode(_valid_unicode(text)).ids for text in texts]
        return np.array(rows, np.int32).reshape(len(rows), self.max_length)

    @property
    def vocab_size(self) -> int:
        """Number of different ids."""
        return self.backend.get_vocab_size()

    def save(self, folder: Path) -> None:
        """Write the files that transformers, diffusers and `load_tokenizer` read.

        transformers turns a padding token into a special one: with OpenCLIP's padding
        its ids of "!" are 0, where OpenCLIP's (and ours) are 256.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        model = json.loads(self.backend.to_str())["model"]
        if self.name in WORD_PIECES:
            write_word_pieces(folder, model["vocab"])
        else:
            tokens = sorted(model["vocab"], key=model["vocab"].get)
            table = {token: index for index, token in enumerate(tokens)}
            _write(folder / "vocab.json", json.dumps(table, ensure_ascii=False))
            merges = "".join(f"{' '.join(pair)}\n" for pair in model["merges"])
            _write(folder / "merges.txt", f"#version: 0.2\n{merges}")
        config = {
            **VOCABULARIES[self.name].config,
            "model_max_length": self.max_length,
            "pad_token": self.pad_token,
        }
        _write(folder / "tokenizer_config.json", json.dumps(config, indent=2))


def load_tokenizer(
    name: str, folder: Path | str = "", max_length: int = 77, *, pad: str = ""
) -> Tokenizer:
    """The tokenizer `name` with the vocabulary in `folder`.

    Args:
      name: "bert" (LDM's text models), "clip" (Stable Diffusion 1 and 2) or "wordpiece"
        (a vocabulary that `wordpiece.train_wordpiece` made).
      folder: holds `vocab.txt` (bert, wordpiece), `vocab.json` and `merges.txt` (clip),
        or `tokenizer.json`; "" is the vocabulary that comes with this package.
      max_length: ids per text; 77 in all published models.
      pad: the token that fills up a text; "" is the folder's own if its
        `tokenizer_config.json` names one, else `[PAD]` or `<|endoftext|>`.
        Stable Diffusion 2 (OpenCLIP) pads with id 0, which is "!".

    Raises:
      FileNotFoundError: if the folder holds no vocabulary.
      ValueError: an unknown name, a vocabulary of another size or without the special
        tokens, a length without room for a word, or a padding token that does not exist.
    """
    if name not in VOCABULARIES:
        raise ValueError(
            f"there is no tokenizer {name!r}; it must be one of {sorted(VOCABULARIES)}"
        )
    vocabulary = read_vocabulary(name, folder)
    pad = pad or vocabulary.pad_token
    if pad not in vocabulary.ids:
        raise ValueError(
            f"the {name} vocabulary has no token {pad!r} to pad with; "
            f"set tokenizer.pad to one it has, such as {VOCABULARIES[name].end!r}"
        )
    if max_length < 3:
        raise ValueError(
            f"tokenizer.max_length is {max_length}; it must be at least 3: "
            "a word between the opening and the closing token"
        )
    backend = (_bert if name in WORD_PIECES else _clip)(vocabulary)
    backend.add_special_tokens(
        [
            tokenizers.AddedToken(token, special=True, normalized=False)
            for token in VOCABULARIES[name].special
        ]
    )
    backend.enable_truncation(max_length)
    backend.enable_padding(length=max_length, pad_id=vocabulary.ids[pad], pad_token=pad)
    return Tokenizer(name, max_length, pad, backend)


def _bert(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """Lower case, no accents, Chinese characters apart, then the longest pieces."""
    backend = tokenizers.Tokenizer(
        models.WordPiece(vocabulary.ids, unk_token="[UNK]")  # pyright: ignore
    )
    _set(
        backend,
        normalizer=normalizers.BertNormalizer(lowercase=True),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        post_processor=_between("[CLS]", "[SEP]", vocabulary),
    )
    return backend


def _clip(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """NFC, single spaces, lower case, CLIP's words, byte pairs ending in `</w>`."""
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocabulary.ids,
            merges=list(vocabulary.merges),
            unk_token="<|endoftext|>",
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
        )
    )
    _set(
        backend,
        normalizer=normalizers.Sequence(
            [
                normalizers.NFC(),
                normalizers.Replace(Regex(r"\s+"), " "),
                normalizers.Lowercase(),
            ]
        ),
        pre_tokenizer=pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_CLIP_WORDS), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        ),
        post_processor=_between("<|startoftext|>", "<|endoftext|>", vocabulary),
    )
    return backend


def _between(first: str, last: str, vocabulary: Vocabulary) -> Any:
    return processors.TemplateProcessing(
        single=[first, "$A", last],
        special_tokens=[(token, vocabulary.ids[token]) for token in (first, last)],
    )


def _set(backend: tokenizers.Tokenizer, **parts: Any) -> None:
    # Read-only in the package's type stubs.
    for name, part in parts.items():
        setattr(backend, name, part)


def _valid_unicode(text: str) -> str:
    """Half surrogate pairs, which no vocabulary can spell, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
