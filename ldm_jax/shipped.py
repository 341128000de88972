"""Where the files are that come along with the package: commands, configs/, assets/.

In a git checkout they lie beside the package; a wheel carries a copy of them inside, in
`ldm_jax/checkout/` (setup.py puts it there). Nothing else need know which of the two.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """The folder of train.py, configs/ and assets/."""
    inside = _PACKAGE / "checkout"
    return inside if inside.is_dir() else _PACKAGE.parent


def asset(name: str) -> Path:
    """A file or folder under assets/, such as "emoji64/emoji64.zip"; it may be missing."""
    return root() / "assets" / name


def config_path(path: str) -> str:
    """A config file, with or without `:argument`, as it stands or under the root.

    What is neither is given back for others to complain about.
    """
    file = path.partition(":")[0]
    if not Path(file).is_file() and file and (root() / file).is_file():
        return str(root() / path)
    return path


def make_configs_importable() -> None:
    """Config files import one another as `configs.*`, which lies under the root."""
    if str(root()) not in sys.path:
        sys.path.insert(0, str(root()))


def with_config_paths(argv: Sequence[str]) -> list[str]:
    """A command line whose `--config=configs/...` is found from any folder."""
    found = list(argv)
    for index, argument in enumerate(argv):
        flag, has_value, path = argument.partition("=")
        if flag not in ("--config", "-config"):
            continue
        if has_value:
            found[index] = f"{flag}={config_path(path)}"
        elif index + 1 < len(argv):
            found[index + 1] = config_path(argv[index + 1])
    return found
