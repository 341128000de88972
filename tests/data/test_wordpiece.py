"""Vocabularies of one's own captions: the same every time, and BERT's in form."""

import numpy as np
import pytest

from ldm_jax.data.sources import open_source
from ldm_jax.data.tokenizers import load_tokenizer
from ldm_jax.data.wordpiece import empty_tokens, load_wordpiece, train_wordpiece

NAME = "wordpiece"


@pytest.fixture(scope="module")
def captions():
    source = open_source("emoji64")
    return [source.annotation(index)["caption"] for index in range(len(source))]


@pytest.fixture(scope="module")
def folder(captions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary") / "tokenizer"
    train_wordpiece(captions, 1000, folder)
    return folder


def test_special_tokens_come_first_in_berts_order(folder):
    lines = (folder / "vocab.txt").read_text("utf-8").splitlines()
    assert lines[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(lines) == len(set(lines)) == 1000
    row = load_tokenizer(NAME, folder, 16)([""])[0]
    assert row.tolist() == empty_tokens(16).tolist() == [2, 3] + [0] * 14


def test_captions_are_spelled_without_unknown_words(folder, captions):
    tokenizer = load_tokenizer(NAME, folder, 40)
    rows = tokenizer(captions)
    assert (rows != 1).all() and rows.max() < 1000
    assert tokenizer.backend.decode(rows[0].tolist()) == "grinning face , 3d"
    pieces = tokenizer.backend.encode("Red HEART, 3D").tokens
    assert pieces[:6] == ["[CLS]", "red", "heart", ",", "3d", "[SEP]"]


@pytest.mark.parametrize("vocab_size", [60, 300])
def test_the_same_captions_give_the_same_vocabulary(captions, tmp_path, vocab_size):
    """The trainer of `tokenizers` alone gives another one almost every time."""
    texts = set()
    for _ in range(4):
        train_wordpiece(captions[:500], vocab_size, tmp_path / "tokenizer")
        texts.add((tmp_path / "tokenizer/vocab.txt").read_text("utf-8"))
    assert len(texts) == 1
    assert len(texts.pop().splitlines()) == vocab_size


def test_equally_rare_letters_are_left_out_the_same_way(tmp_path):
    alphabet = [chr(0x4E00 + i) for i in range(60)]
    texts = set()
    for _ in range(4):
        train_wordpiece(alphabet + ["a" * 9], 30, tmp_path / "tokenizer")
        texts.add((tmp_path / "tokenizer/vocab.txt").read_text("utf-8"))
    assert len(texts) == 1
    tokenizer = load_wordpiece(tmp_path / "tokenizer", 4, 30)
    assert tokenizer([alphabet[0]])[0, 1] > 4 and tokenizer([alphabet[-1]])[0, 1] == 1


def test_ids_stay_below_the_size_asked_for(tmp_path):
    captions = ["a cat", "two cats", "a dog", "Café ÅNGSTRÖM", "一只猫 坐在", "\ud83d"]
    train_wordpiece(captions, 8192, tmp_path / "tokenizer")
    tokenizer = load_wordpiece(tmp_path / "tokenizer", 12, 8192)
    assert 20 < tokenizer.vocab_size < 100
    rows = tokenizer([*captions, "an unseen 犬 zebra", "cafe angstrom"])
    assert rows.max() < tokenizer.vocab_size
    np.testing.assert_array_equal(rows[3], rows[-1])
    with pytest.raises(ValueError, match=r"more than config.tokenizer.vocab_size=20"):
        load_wordpiece(tmp_path / "tokenizer", 12, 20)


def test_transformers_reads_it_alike(folder, captions):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert type(theirs).__name__ == "BertTokenizer" and len(theirs) == 1000
    texts = [*captions[::100], "", "Café ÅNGSTRÖM 一只猫 x!y", "[MASK] [unk]"]
    ours = load_tokenizer(NAME, folder, 24)(texts)
    ids = theirs(texts, max_length=24, padding="max_length", truncation=True).input_ids
    np.testing.assert_array_equal(ours, ids)


def test_a_saved_copy_loads_alike(folder, tmp_path):
    tokenizer = load_tokenizer(NAME, folder, 24)
    tokenizer.save(tmp_path / "copy")
    again = load_tokenizer(NAME, tmp_path / "copy", 24)
    np.testing.assert_array_equal(again(["two cats"]), tokenizer(["two cats"]))


def test_mistakes_are_one_sentence(tmp_path):
    for captions in ([], ["", "  "]):
        with pytest.raises(ValueError, match="no caption has a word"):
            train_wordpiece(captions, 1000, tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="vocab_size is 20, too small"):
        train_wordpiece(["a cat"], 20, tmp_path / "tokenizer")
    assert not (tmp_path / "tokenizer").exists()
    with pytest.raises(FileNotFoundError, match="train.py makes it of the captions"):
        load_tokenizer(NAME, tmp_path / "tokenizer")
    with pytest.raises(FileNotFoundError, match="no wordpiece vocabulary"):
        load_tokenizer(NAME)
