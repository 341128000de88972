"""Run the notebooks: `make notebooks`.

python -m tools.notebooks                       # all of them, short; the files stay as they are
python -m tools.notebooks 01_sample --keep      # whole, and its outputs are kept in the file

The cell with the tag `parameters` holds what may be changed: `--set NAME=VALUE` (a Python
value) changes it for this run, and short runs set SHORT=True.
"""

# Of the extras docs and notebooks.
# pyright: reportMissingImports=false

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # only where notebooks run, so that --help answers without the extra
    from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
TIMEOUT = 3600  # seconds a cell


def run(path: Path, parameters: Mapping[str, str]) -> "NotebookNode":
    """Execute a notebook in the root of the repository.

    Args:
      path: of the .ipynb.
      parameters: assignments that follow the cell with the tag `parameters`, as source.

    Returns:
      The notebook as it is in the file, with the outputs of this run.

    Raises:
      CellExecutionError: names the cell that failed.
      ValueError: if no cell has the tag.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    lines = [f"{name} = {value}" for name, value in parameters.items()]
    injected = nbformat.v4.new_code_cell("\n".join(lines))
    notebook.cells.insert(_after_parameters(path, notebook), injected)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        resources={"metadata": {"path": str(ROOT)}},
        record_timing=False,
    )
    client.execute()
    notebook.cells.remove(injected)
    _tidy(notebook)
    return notebook


def _after_parameters(path: Path, notebook: "NotebookNode") -> int:
    for index, cell in enumerate(notebook.cells):
        if "parameters" in cell.metadata.get("tags", []):
            return index + 1
    raise ValueError(f"{path} has no cell with the tag 'parameters': give it one")


def _tidy(notebook: "NotebookNode") -> None:
    """Leave out what differs from run to run and tells a reader nothing."""
    from nbformat import NotebookNode

    notebook.metadata = NotebookNode(
        {
            "kernelspec": {
                "display_name": "Python 3",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        }
    )
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        cell.execution_count = number
        cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number


def main() -> int:
    """Run the notebooks that the command line names; 1 if one of them fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    parser.add_argument("names", nargs="*", default=names, help=", ".join(names))
    parser.add_argument("--keep", action="store_true", help="whole; keep the outputs")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"no notebook {min(unknown)}: there are {', '.join(names)}")
    import nbformat
    from nbclient.exceptions import CellExecutionError

    given = dict(pair.split("=", 1) for pair in options.set)
    parameters = given if options.keep else {"SHORT": "True", **given}
    failed = []
    for name in options.names:
        start = time.perf_counter()
        try:
            notebook = run(FOLDER / f"{name}.ipynb", parameters)
        except CellExecutionError as error:
            print(f"{name} failed:\n{error}", file=sys.stderr)
            failed.append(name)
            continue
        if options.keep:
            nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
