"""notebooks/: clean files with pictures, and each runs (short) from start to end."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_BYTES = 1.5e6


def name(path: Path) -> str:
    return path.stem


def test_there_are_five():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_the_file_is_valid_small_and_says_how_to_begin(path):
    assert path.stat().st_size <= MAX_BYTES
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    repository = re.search(
        r"^repo_url: (\S+)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE
    )
    assert repository
    badge = repository[1].replace("github.com", "colab.research.google.com/github")
    assert f"{badge}/blob/main/notebooks/{path.name}" in notebook.cells[0].source
    install = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert f'REPOSITORY = "{repository[1]}"' in install.source
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1 and "SHORT = False" in tagged[0].source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_readers_find_pictures_and_no_errors(path):
    notebook = json.loads(path.read_text("utf-8"))
    outputs = [out for cell in notebook["cells"] for out in cell.get("outputs", [])]
    has_pictures = any("image/png" in out.get("data", {}) for out in outputs)
    assert has_pictures
    kinds = {out["output_type"] for out in outputs}
    assert kinds <= {"stream", "display_data", "execute_result"}
    assert not any(out.get("name") == "stderr" for out in outputs)
    assert str(ROOT) not in path.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_it_runs(path):
    pytest.importorskip("nbclient")
    pytest.importorskip("matplotlib")
    from tools import notebooks

    done = notebooks.run(path, {"SHORT": "True"})
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any("image/png" in out.get("data", {}) for c in code for out in c.outputs)
