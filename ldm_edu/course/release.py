"""Writes the student edition: `python -m ldm_edu.course.release --out out/release notebooks/01_*.ipynb`

The folder is a course of nbgrader: its settings, and each chapter as the assignment of its number. Of every exercise
only the stub and the check are left, and no outputs. notebooks/instructors.md says how to grade what comes back.
"""
import argparse
import re
from pathlib import Path

import nbformat

from .sync import save

CONFIG = '''\
"""How nbgrader grades this course; `make release` wrote it and does not write it again."""
import os

os.environ["LDM_EDU_STRICT"] = "1"    # an exercise that was not attempted earns nothing
c = get_config()
c.CourseDirectory.course_id = "ldm_edu"
c.ClearSolutions.enabled = False      # there are none left, and it would empty the stubs
c.Execute.timeout = 300               # seconds per cell, trainings included
'''


def release(notebook) -> None:
    """Remove, in place, cells tagged `solution` and all outputs. Raises ValueError if a solution would be left."""
    notebook.cells = [cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if "check" in cell.metadata.get("tags", []):    # a student may have named a variable so
                cell.source = f"from ldm_edu.course.exercises import check\n{cell.source}"
            if found := re.search(r"# Solution.*|\bsolution_\w+", cell.source):
                raise ValueError(f"{found[0]!r} is in a cell without the tag solution")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; nothing is written if a notebook would show a solution."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.course.release", description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    for path in options.notebooks:
        if not re.match(r"\d\d_", path.name) or not path.is_file():
            parser.error(f"notebooks: got {path}, expected a file whose name begins with the number of its chapter")
    released = {path: nbformat.read(path, as_version=4) for path in options.notebooks}
    for path, notebook in released.items():
        try:
            release(notebook)
        except ValueError as error:
            parser.error(f"{path}: {error}")
    for path, notebook in released.items():
        target = options.out / "source" / path.name[:2] / path.name
        save(notebook, target)
        print(target)
    if not (config := options.out / "nbgrader_config.py").exists():
        config.write_text(CONFIG, encoding="utf-8")


if __name__ == "__main__":
    main()
