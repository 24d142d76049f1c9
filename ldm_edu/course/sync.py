"""Copies the package's definitions into the notebooks that show them: `python -m ldm_edu.course.sync`, or `make sync`.

The name is the marker: a top-level function, class or constant in a notebook whose name is public in `ldm_edu` must
equal the package's source character for character. Step-by-step variants have other names (`ddim_naive`). Names that
two modules define (`main`, `TINY`) and names of this room mark nothing.
"""
import ast
import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..support.commands import CommandLine, run_command
from ..support.files import replacing

ROOT = Path(__file__).parents[2]    # of the repository


class Definition(NamedTuple):
    """A top-level definition of a module or of a notebook's cell."""

    name: str
    constant: bool
    start: int   # its first line in the text it stands in, counted from 0
    stop: int    # the one after its last
    source: str
    module: str = ""


def definitions(source: str, module: str = "") -> Iterator[Definition]:
    """Find public definitions at the top level of `source`, two in `A, B = 1, 2`."""
    for node in ast.parse(python(source)).body:
        constant = isinstance(node, ast.Assign | ast.AnnAssign)
        if constant:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            targets = [part for target in targets for part in getattr(target, "elts", [target])]
            names, start = [target.id for target in targets if isinstance(target, ast.Name)], node.lineno - 1
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names, start = [node.name], min(part.lineno for part in [node, *node.decorator_list]) - 1
        else:
            continue
        text = "\n".join(source.split("\n")[start:node.end_lineno])
        for name in names:
            if not name.startswith("_"):
                yield Definition(name, constant, start, node.end_lineno, text, module)


def python(source: str) -> str:
    """Replace the magics in a cell's source by `pass`, line for line; a cell that is no Python becomes empty."""
    for text in (source, re.sub(r"^([ \t]*)([%!].*|.*\?)$", r"\1pass", source, flags=re.MULTILINE)):
        with suppress(SyntaxError):
            ast.parse(text)
            return text
    return ""


@cache
def package(folder: Path = ROOT / "ldm_edu") -> dict[str, Definition]:
    """Find, by name, every public definition that one module alone makes, in every room but `course`."""
    found: dict[str, list[Definition]] = {}
    for path in sorted(folder.rglob("[!_]*.py")):
        _, *rooms, file = path.relative_to(folder.parent).parts
        if "course" not in rooms:
            module = ".".join([folder.name, *rooms, file.removesuffix(".py")])
            for definition in definitions(path.read_text(encoding="utf-8"), module):
                found.setdefault(definition.name, []).append(definition)
    return {name: same[-1] for name, same in found.items() if len({d.module for d in same}) == 1}


def shown(notebook, known: dict[str, Definition]) -> Iterator[tuple[int, Definition]]:
    """Find what a notebook shows of the package: (code cell, counted from 0 as nbval does; definition)."""
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        for definition in definitions(cell.source):
            original = known.get(definition.name)
            if original and (original.constant or not definition.constant):    # halve = 3 is a variable
                yield number, definition


def sync(notebook, known: dict[str, Definition]) -> list[tuple[int, str]]:
    """Rewrite, in place, the definitions that differ from the package's; return (cell number, name) of each."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    stale = [(n, d) for n, d in shown(notebook, known) if d.source != known[d.name].source]
    statements = {(number, d.start, d.stop): known[d.name].source for number, d in stale}
    for (number, start, stop), source in reversed(statements.items()):  # from the end: line numbers stay true
        lines = cells[number].source.split("\n")
        lines[start:stop] = source.split("\n")
        cells[number].source = "\n".join(lines)
    return [(number, definition.name) for number, definition in stale]


def save(notebook, path: Path) -> None:
    """Write a notebook as JupyterLab does, whole or not at all."""
    import nbformat  # not before: live.py uses this module in every kernel, and nbformat takes a second

    with replacing(path) as part:
        nbformat.write(notebook, part)


def sync_all(_: Namespace) -> None:
    """Sync every notebook and print what has changed."""
    import nbformat

    known = package()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        changed = sync(notebook, known)
        for number, name in changed:
            print(f"{path.relative_to(ROOT)}: code cell {number}: {name} from {known[name].module}")
        if changed:
            save(notebook, path)


if __name__ == "__main__":
    run_command(CommandLine("ldm_edu.course.sync", __doc__, threads=False), None, sync_all)
