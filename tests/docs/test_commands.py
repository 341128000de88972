"""Every command that the documentation shows is one that its program takes."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from documented_commands import blocks, commands

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TARGET = re.compile(r"^([a-z][\w-]*):", re.MULTILINE)
# Models of 256x256 and more; those of the demo, the tests and emoji run on a CPU.
SMALL = ("configs/tiny/", "configs/emoji", "configs/autoencoder/emoji")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def refused(words: Sequence[Sequence[str]]) -> list[str | None]:
    """What each program says of its command, see parse_commands."""
    process = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("parse_commands.py"))],
        input=json.dumps(words),
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def is_ours(words: tuple[str, ...]) -> bool:
    """Not `python -m pip` and the like."""
    if words[1:2] == ("-m",):
        return (ROOT / words[2].partition(".")[0]).is_dir()
    return len(words) > 1 and words[1].endswith(".py")


def test_every_python_command_is_taken_by_its_program():
    found = [
        command
        for page in PAGES
        for command in commands(page)
        if command.words[0] != "make" and is_ours(command.words)
    ]
    assert len(found) > 60
    words = list(dict.fromkeys(("python", *command.words[1:]) for command in found))
    complaint = dict(zip(words, refused(words), strict=True))
    wrong = {}
    for command in found:
        said = complaint[("python", *command.words[1:])]
        if said and not (command.is_cut and "is missing" in said):
            wrong[f"{command.page}: {' '.join(command.words)}"] = said
    assert not wrong, json.dumps(wrong, indent=1)


def test_every_make_target_exists():
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    shown = {
        word
        for page in PAGES
        for command in commands(page)
        if command.words[0] == "make"
        for word in command.words[1:]
        if "=" not in word
    }
    assert {"demo", "test"} <= shown <= targets, shown - targets


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_pictures_exist(page):
    text = re.sub(r"```.*?```|`[^`]+`", "", page.read_text("utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text)
    missing = [
        link
        for link in (a or b for a, b in targets)
        if not link.startswith(("http", "#", "mailto:"))
        and not (page.parent / link.partition("#")[0]).exists()
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_of_a_page_is_python(page):
    for line, language, body in blocks(page.read_text("utf-8")):
        if language == "python":
            ast.parse(body, filename=f"{page.name}:{line}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_with_large_models_say_which_hardware_they_need(page):
    configs = [
        word.partition("=")[2]
        for command in commands(page)
        for word in command.words
        if word.startswith("--config=")
    ]
    if all(config.startswith(SMALL) for config in configs):
        return
    assert re.search(r"\b(GPU|TPU)s?\b", page.read_text("utf-8"))


def test_a_wrong_command_is_told():
    words = [
        ["python", "sample.py", "--checkpoint=x", "--stpes=5"],
        ["python", "train.py", "--config=configs/ffhq_f4.py", "--config.train.bath=1"],
        ["python", "train.py", "--config=configs/nothing.py", "--workdir=x"],
        ["python", "evaluate.py", "--network=resnet"],
        ["python", "tools/demo.py", "--steps"],
        ["python", "tools/nothing.py"],
        ["python", "evaluate.py", "--checkpoint=x", "--reference=emoji64"],
    ]
    *wrong, right = refused(words)
    assert all(wrong), wrong
    assert right is None
    assert "stpes" in wrong[0]
    assert "bath" in wrong[1]
