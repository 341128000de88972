"""A word-piece vocabulary of one's own captions, in BERT's form."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Int32
from tokenizers import models, normalizers, pre_tokenizers, trainers

from ldm_jax.data.tokenizers import Tokenizer, load_tokenizer
from ldm_jax.data.vocabularies import VOCABULARIES, write_word_pieces

NAME = "wordpiece"
SPECIAL = VOCABULARIES[NAME].special  # the first ids, in BERT's order
MAX_ALPHABET = 1000  # of `tokenizers`, and of BERT's own vocabulary about
MIN_COUNT = 2  # a piece that occurs once teaches nothing

logger = logging.getLogger(__name__)


def train_wordpiece(captions: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Write the vocabulary of some captions to `folder`, whole or not at all.

    The same captions give the same vocabulary: lower case without accents, the special
    tokens first, then letters, then pieces by frequency. It holds `vocab_size` entries
    or, of a small corpus, fewer: each piece occurs at least twice. A rare character for
    which there is no room becomes [UNK].

    Args:
      captions: any number; only those with words count.
      vocab_size: most entries, special tokens included.
      folder: made or replaced; `load_tokenizer("wordpiece", folder, ...)` and
        transformers' `BertTokenizer` read it.

    Raises:
      ValueError: if no caption has a word, or there is no room for ten letters.
    """
    if vocab_size < len(SPECIAL) + 20:
        raise ValueError(
            f"tokenizer.vocab_size is {vocab_size}, too small for an alphabet: give 1000 "
            "or more"
        )
    normalizer = normalizers.BertNormalizer(lowercase=True)
    texts = [normalizer.normalize_str(_valid(caption)) for caption in captions]
    ids = _train(texts, vocab_size)
    if len(ids) == len(SPECIAL):
        raise ValueError(
            "no caption has a word to make a vocabulary of: give pictures with captions, "
            "or set --config.tokenizer.name=bert"
        )
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_word_pieces(partial, ids)
    load_tokenizer(NAME, partial, max_length=3).save(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    logger.info(
        "vocabulary of %d word pieces from %d captions: %s",
        len(ids),
        len(texts),
        folder,
    )


def empty_tokens(max_length: int) -> Int32[np.ndarray, " l"]:
    """Ids of "", the same in every such vocabulary: [CLS], [SEP] and padding."""
    tokens = np.full(max_length, SPECIAL.index("[PAD]"), np.int32)
    tokens[:2] = SPECIAL.index("[CLS]"), SPECIAL.index("[SEP]")
    return tokens


def load_wordpiece(folder: Path, max_length: int, vocab_size: int) -> Tokenizer:
    """The tokenizer of a vocabulary that a model of `vocab_size` ids can read.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is damaged, or holds more ids than the model has.
    """
    tokenizer = load_tokenizer(NAME, folder, max_length)
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"the vocabulary in {folder} has {tokenizer.vocab_size} entries, more than "
            f"config.tokenizer.vocab_size={vocab_size}: raise that, or remove the folder "
            "to make a new vocabulary"
        )
    return tokenizer


def _train(texts: Sequence[str], vocab_size: int) -> dict[str, int]:
    """The trainer of `tokenizers`, whose choices by chance are made here beforehand.

    It numbers the letters inside words (`##a`) as a hash map has them and breaks ties by
    these numbers, and also leaves out any of equally rare letters: so it is told which
    letters there are, and all their numbers.
    """
    words = pre_tokenizers.BertPreTokenizer()
    counts = Counter(word for text in texts for word, _ in words.pre_tokenize_str(text))
    letters, inside = Counter(), set()
    for word, count in counts.items():
        letters.update({c: n * count for c, n in Counter(word).items()})
        inside.update(word[1:])
    room = min(MAX_ALPHABET, (vocab_size - len(SPECIAL)) // 2)
    alphabet = sorted(letters, key=lambda c: (-letters[c], c))[:room]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_COUNT,
        special_tokens=[*SPECIAL, *(f"##{c}" for c in alphabet if c in inside)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))  # pyright: ignore
    backend.pre_tokenizer = words  # pyright: ignore
    backend.train_from_iterator(texts, trainer)
    return backend.get_vocab()


def _valid(text: str) -> str:
    """Half surrogate pairs, which no vocabulary can spell, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
