"""The commands that a page shows, `python ...` and `make ...`, in blocks and in the text."""

import re
import shlex
from itertools import pairwise, takewhile
from pathlib import Path
from typing import NamedTuple

# What runs one of ours on other machines, before the command itself.
STARTS = re.compile(r"(?:^|[\s;&|\"'(/])(python3?(?:\.\d+)? |make )")
FENCE = re.compile(
    r"^ {0,3}```(?P<language>\w*).*?\n(?P<body>.*?)^ {0,3}```", re.MULTILINE | re.DOTALL
)
INLINE = re.compile(
    r"`((?:python |make |(?:app|convert|evaluate|sample|train)\.py --\w+=)[^`]+)`"
)
NO_SHELL = ("python", "json", "yaml", "toml", "text", "mermaid")
# What stands for words that a page leaves out, and for a value of one's own.
CUT = ("...", "[...]")
PLACEHOLDERS = {"N": "8", "STEP": "8", "NAME": "0", "$i": "0"}


class Command(NamedTuple):
    """One command of a page.

    Attributes:
      page: file and line it was found at, for messages.
      words: `("python", "train.py", "--config=configs/ffhq_f4.py")`.
      is_cut: whether `...` stood in it.
    """

    page: str
    words: tuple[str, ...]
    is_cut: bool


def blocks(text: str) -> list[tuple[int, str, str]]:
    """(line, language, body) of the fenced blocks of a page, those in lists too."""
    return [
        (text.count("\n", 0, match.start("body")) + 1, match["language"], match["body"])
        for match in FENCE.finditer(text)
    ]


def commands(path: Path) -> list[Command]:
    """All commands of a page, continued lines joined and comments left out."""
    text, found = path.read_text("utf-8"), []
    for line, language, body in blocks(text):
        if language not in NO_SHELL:
            for shown in re.sub(r"\s*\\\n\s*", " ", body).splitlines():
                found += _of_line(f"{path.name}:{line}", shown)
    for span in INLINE.findall(FENCE.sub("", text)):
        shown = " ".join(span.split())
        found += _of_line(path.name, shown if " " in shown[:8] else f"python {shown}")
    return found


def _of_line(page: str, text: str) -> list[Command]:
    if text.lstrip().startswith("#"):
        return []
    starts = [match.start(1) for match in STARTS.finditer(text)]
    return [
        _command(page, text[start:end]) for start, end in pairwise([*starts, len(text)])
    ]


def _command(page: str, text: str) -> Command:
    """Split as a shell does, up to a comment or to what ends a command."""
    if text.count('"') % 2:  # the rest of a quoted command for another machine
        text = text.replace('"', "")
    words = shlex.shlex(text, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    words = list(takewhile(lambda word: not set(word) <= set(";&|<>()"), words))
    shown = [_filled(word) for word in words if word not in CUT]
    return Command(page, tuple(shown), is_cut=len(shown) < len(words))


def _filled(word: str) -> str:
    name, equals, value = word.partition("=")
    return name + equals + PLACEHOLDERS.get(value, value) if equals else word
