"""Runs a notebook's code as plain Python, where there is no Jupyter: `python tests/course/plain_cells.py CHAPTER.ipynb`

Magics are left out, except that edited definitions are live as in a kernel; pictures and widgets are drawn for nobody.
"""
import ast
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

for library, parts in {"IPython": ("display", "core.magic"), "ipywidgets": ()}.items():
    if find_spec(library) is None:
        absent = MagicMock(version_info=(9, 0), get_ipython=lambda: None)    # what matplotlib asks
        sys.modules |= {library: absent} | {f"{library}.{part}": MagicMock() for part in parts}


def run(path: Path) -> int:
    """Run the cells in order, in one namespace; return how many there are."""
    from ldm_edu.course import live
    from ldm_edu.course.sync import python

    kernel = SimpleNamespace(user_ns={"__name__": "__main__"}, ast_transformers=[])
    live.load_ipython_extension(kernel)
    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
             if cell["cell_type"] == "code"]
    for number, source in enumerate(cells):
        tree = ast.parse(python(source))
        for transformer in kernel.ast_transformers:
            tree = transformer.visit(tree)
        exec(compile(tree, f"{path.name}, code cell {number}", "exec"), kernel.user_ns)
    return len(cells)


if __name__ == "__main__":
    import matplotlib
    matplotlib.use("agg")
    notebook = Path(sys.argv[1]).resolve()
    os.chdir(notebook.parent)
    print(f"{notebook.name}: {run(notebook)} code cells ran")
