"""Writes the student edition, without the solutions: `python tests/release.py --out out/release notebooks/01_*.ipynb`.

Of every exercise the stub and the check are left, with nbgrader's metadata; outputs are removed, as students run
the cells themselves. README.md, "For instructors", says how to grade what comes back.
"""
import argparse
from pathlib import Path

import nbformat
from sync import save


def release(notebook):
    """Removes, in place, cells tagged `solution`, and every output."""
    notebook.cells = [cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for path in options.notebooks:
        notebook = nbformat.read(path, as_version=4)
        release(notebook)
        save(notebook, options.out / path.name)
        print(options.out / path.name)


if __name__ == "__main__":
    main()
