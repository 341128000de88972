"""Ids of captions: against known ids and against transformers' own tokenizers."""

import json
import pickle
import shutil

import numpy as np
import pytest

from ldm_jax.data.tokenizers import load_tokenizer
from ldm_jax.data.vocabularies import VENDORED, read_vocabulary

TEXTS = [
    "",
    "   ",
    "a photograph of an astronaut riding a horse",
    "A PHOTOGRAPH  of\tan\nastronaut",
    "I'll say it's what they've don't can't we're I'm he'd rock'n'roll 'twas",
    "café naïve Zürich Ångström crème brûlée",
    "cafe\u0301 decomposed, ﬁligature, ①②, ½ and İstanbul ẞtraße",
    "一只猫 坐在 沙发 上。日本語のテキスト 한국어",
    "👩‍🚀🚀 emoji 🇩🇪 👍🏽 ❤️",
    "1234 5.6e-7 $1,000 #1 @user 100% 8k",
    "&lt;b&gt;fish &amp; chips&lt;/b&gt; <i>x</i>",
    "hello!!! ... --- ??? (((masterpiece))) [x] {y} :-) \\ / | ~ ^ _under_score",
    "the end <|endoftext|> and the start <|startoftext|> and <|ENDOFTEXT|>",
    "[CLS] plain [MASK] [sep] [PAD] words",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "x" * 150,
    "zero\u200bwidth nb\u00a0space \u3000wide\u2028line \x00nul \x07bell \ufffd",
    "Привет мир ελληνικά ΣΊΣΥΦΟΣ עברית العربية हिन्दी ไทย",
    " ".join(f"word{i}" for i in range(60)),
    "a " * 75,
    "a " * 76,
]

# Ids that the published models see.
GOLDEN = {
    "clip": {
        "": [49406, 49407],
        "a photo of a cat": [49406, 320, 1125, 539, 320, 2368, 49407],
        "Hello, World!": [49406, 3306, 267, 1002, 256, 49407],
    },
    "bert": {
        "": [101, 102],
        "a photo of a cat": [101, 1037, 6302, 1997, 1037, 4937, 102],
        "Hello, World!": [101, 7592, 1010, 2088, 999, 102],
    },
}


def reference(name, **fields):
    """transformers' tokenizer on the vendored vocabulary.

    It ignores unknown arguments and then knows two tokens, hence the check.
    """
    transformers = pytest.importorskip("transformers")
    vocabulary = read_vocabulary(name)
    if name == "bert":
        tokenizer = transformers.BertTokenizer(vocab=vocabulary.ids, **fields)
    else:
        tokenizer = transformers.CLIPTokenizer(
            vocab=vocabulary.ids, merges=list(vocabulary.merges), **fields
        )
    assert len(tokenizer) == len(vocabulary.ids)
    return tokenizer


def ids_of(tokenizer, texts, max_length=77):
    return tokenizer(
        texts, max_length=max_length, padding="max_length", truncation=True
    ).input_ids


@pytest.mark.parametrize("name", ["clip", "bert"])
def test_ids_are_the_known_ones_and_padded_to_the_length(name):
    pad = {"clip": 49407, "bert": 0}[name]
    tokenizer = load_tokenizer(name)
    for text, known in GOLDEN[name].items():
        row = tokenizer([text])
        assert row.dtype == np.int32 and row.shape == (1, 77)
        assert row[0].tolist() == known + [pad] * (77 - len(known))


@pytest.mark.parametrize("name", ["clip", "bert"])
@pytest.mark.parametrize("max_length", [77, 5])
def test_ids_equal_those_of_transformers(name, max_length):
    ours = load_tokenizer(name, max_length=max_length)(TEXTS)
    theirs = ids_of(reference(name), TEXTS, max_length)
    for text, a, b in zip(TEXTS, ours.tolist(), theirs, strict=True):
        assert a == b, text


def test_random_strings_have_the_ids_of_transformers():
    random = np.random.default_rng(0)
    ranges = [(32, 127), (160, 592), (880, 1424), (0x4E00, 0x4F00), (0x1F300, 0x1F650)]
    texts = []
    for _ in range(300):
        low, high = ranges[random.integers(len(ranges))]
        points = random.integers(low, high, random.integers(1, 60))
        texts.append("".join(map(chr, points)))
    for name in ("clip", "bert"):
        ours = load_tokenizer(name)(texts)
        np.testing.assert_array_equal(ours, ids_of(reference(name), texts))


def test_long_texts_keep_their_start_and_the_closing_token():
    row = load_tokenizer("clip")(["cat " * 100])[0]
    assert row[0] == 49406 and row[-1] == 49407 and set(row[1:-1]) == {2368}
    row = load_tokenizer("bert")(["cat " * 100])[0]
    assert row[0] == 101 and row[-1] == 102 and set(row[1:-1]) == {4937}


def test_openclip_pads_with_zero_and_still_spells_exclamation_marks():
    tokenizer = load_tokenizer("clip", pad="!")
    assert tokenizer(["hello!"])[0].tolist() == [49406, 3306, 256, 49407] + [0] * 73
    texts = [text for text in TEXTS if "!" not in text]
    theirs = reference("clip", pad_token="!")
    np.testing.assert_array_equal(tokenizer(texts), ids_of(theirs, texts))
    # The difference: there the padding token swallows the mark.
    assert ids_of(theirs, ["hello!"])[0][2] == 0


def test_vendored_clip_table_follows_from_its_merges():
    vocabulary = read_vocabulary("clip")
    tokens = sorted(vocabulary.ids, key=vocabulary.ids.get)
    assert tokens[256:512] == [f"{token}</w>" for token in tokens[:256]]
    assert tokens[512:-2] == [a + b for a, b in vocabulary.merges]
    assert tokens[-2:] == ["<|startoftext|>", "<|endoftext|>"]
    for name in ("bert", "clip"):
        for file in ("LICENSE", "SOURCE.md"):
            assert (VENDORED / name / file).stat().st_size > 200


@pytest.mark.parametrize("name", ["clip", "bert"])
def test_a_pickled_tokenizer_gives_the_same_ids(name):
    tokenizer = load_tokenizer(name, max_length=20)
    copy = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(copy(TEXTS), tokenizer(TEXTS))


@pytest.mark.parametrize(("name", "pad"), [("clip", ""), ("clip", "!"), ("bert", "")])
def test_saved_files_load_here_and_in_transformers(tmp_path, name, pad):
    transformers = pytest.importorskip("transformers")
    tokenizer = load_tokenizer(name, max_length=33, pad=pad)
    tokenizer.save(tmp_path / "tokenizer")
    again = load_tokenizer(name, tmp_path / "tokenizer", 33)
    assert again.pad_token == tokenizer.pad_token
    np.testing.assert_array_equal(again(TEXTS), tokenizer(TEXTS))

    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    kind = {"clip": "CLIPTokenizer", "bert": "BertTokenizer"}[name]
    assert type(theirs).__name__ == kind
    assert theirs.model_max_length == 33 and len(theirs) == tokenizer.vocab_size
    texts = [text for text in TEXTS if pad == "" or pad not in text]
    np.testing.assert_array_equal(ids_of(theirs, texts, 33), tokenizer(texts))


@pytest.mark.parametrize("name", ["clip", "bert"])
def test_a_folder_with_only_transformers_json_loads(tmp_path, name):
    reference(name).save_pretrained(tmp_path)
    for file in ("vocab.txt", "vocab.json", "merges.txt"):
        (tmp_path / file).unlink(missing_ok=True)
    assert (tmp_path / "tokenizer.json").is_file()
    ours = load_tokenizer(name, tmp_path)
    np.testing.assert_array_equal(ours(TEXTS), load_tokenizer(name)(TEXTS))


def test_merges_written_as_strings_load_too(tmp_path):
    vocabulary = read_vocabulary("clip")
    merges = [" ".join(pair) for pair in vocabulary.merges]
    model = {"vocab": vocabulary.ids, "merges": merges}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    assert read_vocabulary("clip", tmp_path).merges == vocabulary.merges


def test_half_surrogate_pairs_do_not_stop_the_loader():
    tokenizer = load_tokenizer("clip")
    np.testing.assert_array_equal(tokenizer(["a\ud83db"]), tokenizer(["a?b"]))


def test_no_texts_give_no_rows():
    assert load_tokenizer("bert", max_length=7)([]).shape == (0, 7)


def test_mistakes_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer 't5'; it must be one of \["):
        load_tokenizer("t5")
    with pytest.raises(FileNotFoundError, match=r"vocab.json and merges.txt"):
        load_tokenizer("clip", tmp_path)
    with pytest.raises(ValueError, match="has no token '<pad>' to pad with"):
        load_tokenizer("clip", pad="<pad>")
    with pytest.raises(ValueError, match="max_length is 2; it must be at least 3"):
        load_tokenizer("clip", max_length=2)
    with pytest.raises(TypeError, match="put it in a list"):
        load_tokenizer("bert")("one text")


def test_a_wrong_or_damaged_vocabulary_is_named(tmp_path):
    table = (VENDORED / "bert" / "vocab.txt").read_text(encoding="utf-8")

    def load(text):
        (tmp_path / "vocab.txt").write_bytes(text)
        load_tokenizer("bert", tmp_path)

    with pytest.raises(ValueError, match=r"has 2 entries, but bert has 30,522"):
        load(b"hello\nworld\n")
    with pytest.raises(ValueError, match=r"lacks \[CLS\], so it is not bert's"):
        load(table.replace("[CLS]\n", "[cls]\n").encode())
    with pytest.raises(ValueError, match="is damaged"):
        load(b"\xff\xfe\x00")
    shutil.copytree(VENDORED / "clip", tmp_path / "clip")
    (tmp_path / "clip" / "vocab.json").write_text("{")
    with pytest.raises(ValueError, match="clip vocabulary in .* is damaged"):
        load_tokenizer("clip", tmp_path / "clip")
    ids = read_vocabulary("clip").ids | {"cat</w>": 0}
    (tmp_path / "clip" / "vocab.json").write_text(json.dumps(ids))
    with pytest.raises(ValueError, match="skips or repeats ids"):
        load_tokenizer("clip", tmp_path / "clip")
