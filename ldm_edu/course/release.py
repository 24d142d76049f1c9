"""Writes the student edition: `python -m ldm_edu.course.release --out out/release notebooks/01_*.ipynb`

The folder is a course of nbgrader: its settings, and each chapter as the assignment of its number. Of every exercise
only the stub and the check are left, and no outputs. notebooks/instructors.md says how to grade what comes back.
"""
import re
from argparse import Namespace
from pathlib import Path

import nbformat

from ..support.checks import expect
from ..support.commands import CommandLine, new_folder, run_command
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


def strip(notebook, path: Path) -> None:
    """Remove, in place, cells tagged `solution` and all outputs. Raises ValueError if a solution would be left."""
    notebook.cells = [cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if "check" in cell.metadata.get("tags", []):    # a student may have named a variable so
                cell.source = f"from ldm_edu.course.exercises import check\n{cell.source}"
            if found := re.search(r"# (?:@title )?Solution.*|\bsolution_\w+", cell.source):
                raise ValueError(f"{path}: {found[0]!r} is in a cell without the tag solution")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = CommandLine("ldm_edu.course.release", __doc__, threads=False)
    parser.add_argument("notebooks", nargs="+", type=Path, help="chapters")
    parser.add_argument("--out", type=new_folder, required=True, help="folder for the student edition")
    run_command(parser, arguments, release)


def release(options: Namespace) -> None:
    """Write the student edition; nothing is written if a notebook would show a solution."""
    for path in options.notebooks:
        expect(re.match(r"\d\d_", path.name) and path.is_file(), "notebooks", path,
               "a file whose name begins with the number of its chapter")
    released = {path: nbformat.read(path, as_version=4) for path in options.notebooks}
    for path, notebook in released.items():
        strip(notebook, path)
    for path, notebook in released.items():
        target = options.out / "source" / path.name[:2] / path.name
        save(notebook, target)
        print(target)
    if not (config := options.out / "nbgrader_config.py").exists():
        config.write_text(CONFIG, encoding="utf-8")


if __name__ == "__main__":
    main()
