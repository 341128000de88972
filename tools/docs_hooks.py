"""What the documentation site needs beside docs/: a mkdocs hook, see mkdocs.yml.

Pages link to files outside of docs/ as GitHub wants it (`../assets/demo/samples.png`).
Here the pictures become part of the site, and other links lead to the repository.
"""

# Of the extras docs and notebooks.
# pyright: reportMissingImports=false

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = re.compile(r"(\]\(|src=\")\.\./([^)\s\"]+)")
PICTURES = (".png", ".svg", ".jpg")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pictures of assets/ under their own paths."""
    for path in sorted((ROOT / "assets").rglob("*")):
        if path.suffix in PICTURES:
            uri = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Lead links that leave docs/ to the pictures or to the repository."""

    def inside(match: re.Match) -> str:
        start, target = match.groups()
        if target.endswith(PICTURES):
            return start + target
        kind = "tree" if (ROOT / target.partition("#")[0]).is_dir() else "blob"
        return f"{start}{config.repo_url}/{kind}/main/{target}"

    return OUTSIDE.sub(inside, markdown)
