"""Copies the package's definitions into the notebooks that show them: `python -m ldm_edu.course.sync`, or `make sync`.

The package is the single source of truth and the name is the marker. A top-level function or class in a
notebook whose name is public in `ldm_edu` must equal the package's source character for character, decorators
and trailing comments included; so must a top-level assignment to one of the package's constants. Step-by-step
variants bear other names (`ddim_naive`). A name that two modules define (`main`, `TINY`) marks nothing.
"""
import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat

ROOT = Path(__file__).parents[2]


class Definition(NamedTuple):
    name: str
    constant: bool
    start: int   # its lines in the text it stands in, counted from 0; stop is the one after the last
    stop: int
    source: str  # those lines
    module: str = ""


def definitions(source: str, module: str = "") -> Iterator[Definition]:
    """Public definitions at the top level of `source`, two for `A, B = 1, 2`. Raises SyntaxError."""
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
    """A cell's source, line for line, with `pass` for its magics; nothing of a cell in another language."""
    try:
        ast.parse(source)
        return source
    except SyntaxError:
        plain = re.sub(r"^([ \t]*)([%!].*|.*\?)$", r"\1pass", source, flags=re.MULTILINE)
        try:
            ast.parse(plain)
        except SyntaxError:
            if not source.startswith("%%"):
                raise
            return ""
        return plain


def package(folder: Path = ROOT / "ldm_edu") -> dict[str, Definition]:
    """Every public definition of the package that one module alone makes, by name."""
    found = {}
    for path in sorted(folder.rglob("[!_]*.py")):
        module = path.relative_to(folder).with_suffix("").as_posix()
        if module.startswith(("course/exercises", "course/sync", "course/re", "course/badges")):    # our tools
            continue
        for definition in definitions(path.read_text(encoding="utf-8"), module):
            found.setdefault(definition.name, []).append(definition)
    return {name: same[-1] for name, same in found.items() if len({d.module for d in same}) == 1}


def shown(notebook, known: dict[str, Definition]) -> Iterator[tuple[int, Definition]]:
    """(code cell, counted from 0 as nbval does; definition) for what the notebook shows of the package."""
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        for definition in definitions(cell.source):
            original = known.get(definition.name)
            if original and (original.constant or not definition.constant):
                yield number, definition


def sync(notebook, known: dict[str, Definition]) -> list[tuple[int, str]]:
    """Rewrites, in place, the definitions that differ from the package's; (cell number, name) of each."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    stale = [(n, d) for n, d in shown(notebook, known) if d.source != known[d.name].source]
    statements = {(number, d.start, d.stop): known[d.name].source for number, d in stale}
    for (number, start, stop), source in reversed(statements.items()):  # from the end: line numbers stay true
        lines = cells[number].source.split("\n")
        lines[start:stop] = source.split("\n")
        cells[number].source = "\n".join(lines)
    return [(number, definition.name) for number, definition in stale]


def save(notebook, path: Path):
    """Writes as JupyterLab does, to a temporary name first: a killed run leaves the last good notebook."""
    partial = path.with_name(f".{path.name}.part")
    nbformat.write(notebook, partial)
    os.replace(partial, path)


def main():
    known = package()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        changed = sync(notebook, known)
        for number, name in changed:
            print(f"{path.relative_to(ROOT)}: code cell {number}: {name} from {known[name].module}.py")
        if changed:
            save(notebook, path)


if __name__ == "__main__":
    main()
