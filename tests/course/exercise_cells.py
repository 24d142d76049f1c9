"""What the tests of the exercises and of the student edition share: the exercises, their notebooks and cells."""
import ast
import contextlib
import importlib
import io
import pkgutil
import re

from ldm_edu.course import exercises
from ldm_edu.course.exercises import Hint
from ldm_edu.course.sync import ROOT, python

CHAPTERS = {name[-2:]: importlib.import_module(f"{exercises.__name__}.{name}")
            for _, name, _ in pkgutil.iter_modules(exercises.__path__)}
EXERCISES = {id: exercise for chapter in CHAPTERS.values() for id, exercise in chapter.EXERCISES.items()}
WRONG = {id: answers for number in CHAPTERS
         for id, answers in importlib.import_module(f"wrong_answers.chapter_{number}").WRONG.items()}
NOTEBOOKS = {path.stem[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def said(call, *arguments) -> str:
    """What a call prints, or the hint that it raises."""
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            call(*arguments)
    except Hint as hint:
        return f"Hint {hint}"
    return text.getvalue()


def nbgrader(kind: str, id: str) -> dict:
    """The metadata with which nbgrader runs the check `id` on the student's answer in the exercise cell."""
    graded = {"points": 1} if kind == "check" else {}
    return {"grade": kind == "check", "grade_id": f"{kind}-{id.replace('.', '-')}", "locked": kind == "check",
            "schema_version": 3, "solution": kind == "exercise", "task": False, **graded}


def kind_of(cell) -> str:
    """"exercise", "check", "solution", or "" for any other cell."""
    return next((tag for tag in cell.metadata.get("tags", []) if tag in ("exercise", "check", "solution")), "")


def folded(cell) -> set[str]:
    """Where a code cell's source stays folded until a reader opens it: JupyterLab, Colab, the book."""
    hidden = {"JupyterLab": cell.metadata.get("jupyter", {}).get("source_hidden"),
              "Colab": cell.metadata.get("cellView") == "form" and cell.source.startswith("# @title "),
              "the book": {"hide-cell", "hide-input"} & set(cell.metadata.get("tags", []))}
    return {place for place, is_hidden in hidden.items() if is_hidden}


def cells_of(notebook) -> list[tuple[str, str, list]]:
    """(id, name of the answer, its three cells) of each exercise, in order. ValueError if they are not like that."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found, n = [], 0
    while n < len(code):
        if not kind_of(code[n]):
            n += 1
            continue
        three = code[n:n + 3]
        if [kind_of(cell) for cell in three] != ["exercise", "check", "solution"]:
            raise ValueError(f"code cell {n}: expected an exercise, its check and its solution, one after the other")
        call = re.fullmatch(r"check\(\"(\d\d\.\d+)\", (my_\w+)\)", three[1].source.strip())
        if not call:
            raise ValueError(f"code cell {n + 1}: expected check(\"NN.k\", my_...) and nothing else")
        found.append((call[1], call[2], three))
        n += 3
    return found


def namespace(notebook, before) -> dict:
    """What stub and solution may rely on: the imports, functions and classes in the cells before them."""
    names = {}
    for cell in notebook.cells[:notebook.cells.index(before)]:
        if cell.cell_type == "code" and not kind_of(cell):
            for node in ast.parse(python(cell.source)).body:
                if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
                    with contextlib.suppress(NameError):    # a default value that an earlier cell computes
                        exec(compile(ast.Module([node], type_ignores=[]), "cell", "exec"), names)
    return names
