"""Exercises: a check accepts the right answer, names the likely mistake, and shows no traceback through the package.

For every chapter: planted wrong answers, each with its hint, and the notebook's three cells, which are executed.
"""
import ast
import pkgutil
import re
import sys
import types
import warnings

import nbformat
import numpy as np
import pytest
import torch
import wrong_answers
from exercise_cells import CHAPTERS, EXERCISES, NOTEBOOKS, WRONG, cells_of, folded, namespace, nbgrader, said
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ldm_edu.course import exercises
from ldm_edu.course.exercises import Exercise, check, find
from ldm_edu.course.release import strip
from ldm_edu.course.sync import python

every_exercise = pytest.mark.parametrize("id", EXERCISES)
every_chapter = pytest.mark.parametrize("number", sorted({*CHAPTERS, *NOTEBOOKS} - {"00"}))  # 00, the tour, has none


@pytest.fixture(autouse=True)
def not_strict(monkeypatch):
    monkeypatch.delenv("LDM_EDU_STRICT", raising=False)


def outcome(id: str, answer) -> str:
    """What `check` says of an answer."""
    return said(check, id, answer)


# --- what a check does with an answer, on exercises of its own

def _rooted(x, a):
    return a**0.5 * x


TOY = {
    "99.1": Exercise(
        _rooted, "Look again.", cases=lambda: [(torch.ones(2, 3), 0.25), (torch.full((2, 3), 4.0), 0.5)],
        mistakes={"Where is the root?": lambda x, a: a * x, "The other way round.": lambda x, a: x / a**0.5,
                  "You divide by nothing.": lambda x, a: x / 0,
                  "A root of less than nothing.": lambda x, a: (-x).sqrt(),
                  "Only one row?": lambda x, a: _rooted(x, a)[0]}),
    "99.2": Exercise(7, "Count.", {"You count from 0.": 6}),
    "99.3": Exercise(True, "Think.", {"No.": False}),
    "99.4": Exercise((1.5, "red"), "Both.", {"Swapped.": ("red", 1.5)}),
    "99.5": Exercise(torch.tensor([1e-6, 2e-6]), "Small.", {"Twice too large.": torch.tensor([2e-6, 4e-6])}),
    "99.6": Exercise(torch.tensor([True, False]), "Which?"),
    "99.7": Exercise(torch.arange(10_000), "All."),
}


@pytest.fixture
def toy(monkeypatch):
    module = types.ModuleType("ldm_edu.course.exercises.chapter_99")
    module.EXERCISES = TOY
    monkeypatch.setitem(sys.modules, module.__name__, module)


def _changes_x(x, a):
    x *= a**0.5
    return x


def _stops(x, a):
    y = x @ x    # the line to be named
    return y


def _stops_in_torch(x, a):
    return torch.einsum("ij,jk->ik", x, x)    # whose own lines are not to be named


def _not_implemented(x, a):
    raise NotImplementedError


RIGHT, OPEN = "99.1: right\n", "99.1: not attempted yet\n"


@pytest.mark.parametrize("answer, expected", [
    (_rooted, RIGHT),
    (lambda x, a: _rooted(x, a).double(), RIGHT),
    (lambda x, a: _rooted(x, a).requires_grad_(), RIGHT),
    (lambda x, a: _rooted(x, a).numpy(), RIGHT),
    (lambda x, a: _rooted(x, a).numpy()[::-1], RIGHT),                      # torch takes no negative strides
    (lambda x, a: _rooted(x, a).tolist(), RIGHT),
    (lambda x, a: torch.tensor(_rooted(x, a)), RIGHT),                      # warns
    (lambda x, a: _rooted(x, a) * (1 + 1e-5), RIGHT),
    (None, OPEN),
    (..., OPEN),
    (lambda x, a: None, OPEN),
    (lambda x, a: ..., OPEN),
    (_not_implemented, OPEN),
    (lambda x, a: a * x, "Hint 99.1: Where is the root?"),
    (lambda x, a: (x.numpy() * a).tolist(), "Hint 99.1: Where is the root?"),
    (lambda x, a: x / a**0.5, "Hint 99.1: The other way round."),
    (lambda x, a: x * float("inf"), "Hint 99.1: You divide by nothing."),
    (lambda x, a: _rooted(x, a)[1], "Hint 99.1: Only one row?"),
    (lambda x, a: x, "Hint 99.1: The values are off by up to 0.5. Look again."),
    (lambda x, a: _rooted(x, a) * (1 + 1e-3), "Hint 99.1: The values are off by up to 0.0005. Look again."),
    (lambda x, a: x * float("nan"), "Hint 99.1: A root of less than nothing."),
    (lambda x, a: x.new_tensor([[0, 1, float("nan")]] * 2),
     "Hint 99.1: The result has values that are infinite or not a number. Look again."),
    (lambda x, a: x.mean(), "Hint 99.1: Expected a tensor of shape (2, 3), got a number. Look again."),
    (lambda x, a: x.T, "Hint 99.1: Expected a tensor of shape (2, 3), got a tensor of shape (3, 2). Look again."),
    (lambda x, a: (x, a), "Hint 99.1: Expected a tensor of shape (2, 3), got a tuple of 2. Look again."),
    (lambda x, a: "x", "Hint 99.1: Expected a tensor of shape (2, 3), got a value of type str. Look again."),
    (lambda x, a: {}, "Hint 99.1: Expected a tensor of shape (2, 3), got a value of type dict. Look again."),
    (lambda x, a: _rooted, "Hint 99.1: Expected a tensor of shape (2, 3), got a function. Look again."),
    (lambda x, a: x + 1j, "Hint 99.1: Expected a tensor of shape (2, 3), got a value of type Tensor. Look again."),
    (lambda x, a: x > 0,
     "Hint 99.1: Expected a tensor of shape (2, 3), got a boolean tensor of shape (2, 3). Look again."),
    (lambda x, a: _rooted(x, a) if a < 0.5 else None,
     "Hint 99.1: Expected a tensor of shape (2, 3), got nothing. Look again."),
    (_rooted(torch.ones(2, 3), 0.25),
     "Hint 99.1: Expected a function, got a tensor of shape (2, 3). Pass its name, without calling it."),
    (3, "Hint 99.1: Expected a function, got a number. Pass its name, without calling it."),
    (lambda x: x,
     "Hint 99.1: Your function stops with TypeError: <lambda>() takes 1 positional argument but 2 were given"),
    (_changes_x, "Hint 99.1: Your function changes its arguments. Make new tensors: x = x + 1, not x += 1."),
])
def test_a_function(toy, answer, expected):
    assert outcome("99.1", answer) == expected


@pytest.mark.parametrize("answer, line", [
    (_stops, "y = x @ x    # the line to be named"),
    (_stops_in_torch, 'return torch.einsum("ij,jk->ik", x, x)    # whose own lines are not to be named')])
def test_an_error_in_an_answer_names_its_line(toy, answer, line):
    number = answer.__code__.co_firstlineno + 1
    assert re.fullmatch(rf"Hint 99.1: Your function stops with RuntimeError: .+ \(line {number}: {re.escape(line)}\)",
                        outcome("99.1", answer))


@pytest.mark.parametrize("id, answer, expected", [
    *[("99.2", answer, "99.2: right\n") for answer in
      (7, 7.0, np.float32(7), np.int64(7), np.array(7), torch.tensor(7), torch.tensor(7.0, requires_grad=True))],
    ("99.2", None, "99.2: not attempted yet\n"),
    ("99.2", ..., "99.2: not attempted yet\n"),
    ("99.2", 6, "Hint 99.2: You count from 0."),
    ("99.2", 7.0001, "Hint 99.2: The values are off by up to 0.0001. Count."),
    ("99.2", True, "Hint 99.2: Expected a number, got a boolean. Count."),
    ("99.2", "7", "Hint 99.2: Expected a number, got a value of type str. Count."),
    ("99.2", [7], "Hint 99.2: Expected a number, got a list of 1. Count."),
    ("99.2", lambda: 7, "Hint 99.2: Expected a number, got a function. Count."),
    *[("99.3", answer, "99.3: right\n") for answer in (True, np.True_, torch.tensor(True))],
    ("99.3", False, "Hint 99.3: No."),
    ("99.3", 1, "Hint 99.3: Expected a boolean, got a number. Think."),
    *[("99.4", answer, "99.4: right\n") for answer in ((1.5, "red"), [torch.tensor(1.5), "red"])],
    ("99.4", ("red", 1.5), "Hint 99.4: Swapped."),
    ("99.4", (1.5, "blue"), "Hint 99.4: Got 'blue'. Both."),
    ("99.4", (None, "red"), "Hint 99.4: Expected a number, got nothing. Both."),
    ("99.4", (1.5, "red", 0), "Hint 99.4: Expected 2 results, got a tuple of 3. Both."),
    ("99.4", 1.5, "Hint 99.4: Expected 2 results, got a number. Both."),
    ("99.5", [1e-6, 2e-6], "99.5: right\n"),
    ("99.5", [0.0, 2e-6], "Hint 99.5: The values are off by up to 1e-06. Small."),
    ("99.5", [2e-6, 4e-6], "Hint 99.5: Twice too large."),
    ("99.6", [True, False], "99.6: right\n"),
    ("99.6", [True, True], "Hint 99.6: 1 of 2 booleans are wrong. Which?"),
    ("99.7", torch.arange(10_000.0), "99.7: right\n"),
    ("99.7", torch.arange(10_000.0) + 0.01, "Hint 99.7: The values are off by up to 0.01. All."),
])
def test_a_value(toy, id, answer, expected):
    assert outcome(id, answer) == expected


@pytest.mark.parametrize("answer", [None, lambda x, a: None, _not_implemented], ids=["None", "returns None", "raises"])
def test_when_grading_an_open_exercise_fails(toy, monkeypatch, answer):
    monkeypatch.setenv("LDM_EDU_STRICT", "1")
    assert outcome("99.1", answer) == "Hint 99.1: not attempted yet."
    assert outcome("99.1", _rooted) == RIGHT


def test_a_check_leaves_no_trace(toy):
    """No warnings, no difference to the numbers drawn afterwards; an answer that draws is judged the same each time."""
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    drawn = []

    def draws(x, a):
        warnings.warn("careful", stacklevel=1)
        drawn.append(torch.randn(3).tolist())
        return _rooted(x, a)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert outcome("99.1", draws) == RIGHT
    assert drawn[0] == drawn[1] and torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("id", ["99.8", "98.1", "1.2", _rooted])
def test_an_unknown_exercise_is_named(toy, id):
    with pytest.raises(ValueError, match=r"exercise: got .*, expected the id of an exercise, like '01.2'"):
        find(id)


IN_A_KERNEL = """\
%reset -f
import sys, types, warnings
import torch
from ldm_edu.course.exercises import Exercise, check
module = types.ModuleType("ldm_edu.course.exercises.chapter_99")
module.EXERCISES = {"99.1": Exercise(lambda x: x ** 0.5, "Look again.", {"Where is the root?": lambda x: x},
                                     lambda: [(torch.ones(2) / 4,)])}
sys.modules[module.__name__] = module
"""


def test_a_notebook_shows_the_hint_alone(running):
    assert running(IN_A_KERNEL) == ""
    assert running.run("check('99.1', None)") == ("99.1: not attempted yet\n", "", "", "")
    careful = "def mine(x):", "    warnings.warn('careful')", "    return x.sqrt()", "check('99.1', mine)"
    assert running.run(*careful) == ("99.1: right\n", "", "", "")
    for lines, hint in [
        (["check('99.1', lambda x: x)"], "99.1: Where is the root?"),
        (["def mine(x):", "    y = [x]", "    return y[1]", "check('99.1', mine)"],
         "99.1: Your function stops with IndexError: list index out of range (line 3: return y[1])"),
        (["check('99.1', lambda x: 'four')"],
         "99.1: Expected a tensor of shape (2,), got a value of type str. Look again."),
    ]:
        assert running.run(*lines) == ("", "", f"Hint: {hint}", f"Not yet. {hint}")
    assert running("import os", "os.environ['LDM_EDU_STRICT'] = '1'", "check('99.1', None)",
                   ) == "Hint: 99.1: not attempted yet."
    running("del os.environ['LDM_EDU_STRICT'], sys.modules[module.__name__]")


# --- every exercise of every chapter

@every_exercise
def test_right_is_right(id):
    assert re.fullmatch(r"\d\d\.\d+", id) and id in CHAPTERS[id[:2]].EXERCISES
    assert outcome(id, EXERCISES[id].right) == f"{id}: right\n"
    assert outcome(id, None) == f"{id}: not attempted yet\n"


@every_exercise
def test_every_known_mistake_gets_its_own_hint(id):
    """And therefore differs from what is right, and from the mistakes before it, in at least one case."""
    assert EXERCISES[id].mistakes and EXERCISES[id].hint
    for hint, mistake in EXERCISES[id].mistakes.items():
        assert outcome(id, mistake) == f"Hint {id}: {hint}"


def test_a_gradient_must_reach_every_argument_that_asks_for_one():
    right = EXERCISES["03.2"].right
    for cut, hint in ((lambda a, b, w: right(a.detach(), b, w), "but no gradient passes"),
                      (lambda a, b, w: right(a, b.detach(), w), "but no gradient passes"),
                      (lambda a, b, w: right(a, b, w).tolist(), "but no gradient passes"),
                      (lambda a, b, w: (right(a, b, w) + right(a, b.detach(), w)) / 2, "but their gradient is not")):
        assert outcome("03.2", cut).startswith(f"Hint 03.2: The values are right, {hint}")


@every_exercise
def test_cases_are_the_same_every_time(id):
    first, again = (exercises._results(EXERCISES[id], EXERCISES[id].right) for _ in range(2))
    assert first and exercises._difference(first, again, 0.0) == ""


@every_exercise
def test_planted_wrong_answers_get_their_hints(id):
    found = [outcome(id, answer) for answer, _ in WRONG[id]]
    fragments = [fragment for _, fragment in WRONG[id]]
    assert len(found) >= 6
    for hint, fragment in zip(found, fragments):
        assert hint.startswith("Hint ") and fragment in hint
    assert len(set(found)) == len(found), "two answers get the same hint"
    assert any("Expected " in hint for hint in found), "expected an answer of a wrong type or shape, too"


def test_wrong_answers_are_planted_for_what_there_is():
    planted = {name[-2:] for _, name, _ in pkgutil.iter_modules(wrong_answers.__path__)}
    assert planted == set(CHAPTERS) and set(WRONG) == set(EXERCISES)


# --- the cells of every notebook

def used(source: str) -> set[str]:
    """Every name in a cell."""
    return defined(source) | {part.id for part in ast.walk(ast.parse(python(source))) if isinstance(part, ast.Name)}


def defined(source: str) -> set[str]:
    """Variables and functions that a cell makes."""
    parts = list(ast.walk(ast.parse(python(source))))
    return {part.name for part in parts if isinstance(part, ast.FunctionDef)} | {
        part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}


def faults(notebook, ids: list[str]) -> list[str]:
    """What is wrong with the exercise cells of a notebook that should have the exercises `ids`."""
    try:
        found = cells_of(notebook)
    except ValueError as error:
        return [str(error)]
    if [id for id, _, _ in found] != ids:
        return [f"the cells check {[id for id, _, _ in found]}, the package has {ids}"]
    wrong = []
    for id, mine, (exercise, checked, solution) in found:
        solved = mine.replace("my_", "solution_", 1)
        for cell, kind in ((exercise, "exercise"), (checked, "check"), (solution, "solution")):
            expected = nbgrader(kind, id) if kind != "solution" else None
            if cell.metadata.get("nbgrader") != expected:
                wrong.append(f"{id}: nbgrader metadata of the {kind}: expected {expected}")
            if "nbval-ignore-output" in cell.metadata.tags:
                wrong.append(f"{id}: the {kind} ignores its output")
        if mine not in defined(exercise.source):
            wrong.append(f"{id}: the exercise does not define {mine}")
        if not solution.source.startswith(f"# @title Solution {id}\n"):    # Colab shows it where the code is folded
            wrong.append(f"{id}: expected the solution's first line to be '# @title Solution {id}'")
        if folded(solution) != {"JupyterLab", "Colab", "the book"} or "hide-cell" not in solution.metadata.tags:
            wrong.append(f"{id}: the solution is not folded in JupyterLab, Colab and, with its output, in the book")
        if f'check("{id}", {solved})' not in solution.source or solved not in defined(solution.source):
            wrong.append(f"{id}: the solution does not define and check {solved}")
        for cell in notebook.cells:
            if cell.cell_type == "code" and cell not in (exercise, checked, solution):
                for name in {mine, solved} & used(cell.source):
                    wrong.append(f"{id}: another cell uses {name}")
        if mine in used(solution.source):
            wrong.append(f"{id}: the solution uses {mine}")
    return wrong


def run_faults(notebook, monkeypatch) -> list[str]:
    """What goes wrong when the three cells of each exercise are executed."""
    wrong = []
    for id, _, (exercise, checked, solution) in cells_of(notebook):
        names = namespace(notebook, exercise)
        found = [said(exec, exercise.source, names), said(exec, checked.source, names)]
        with monkeypatch.context() as strict:
            strict.setenv("LDM_EDU_STRICT", "1")
            found.append(said(exec, checked.source, names))
        found.append(said(exec, solution.source, names))
        expected = ["", f"{id}: not attempted yet\n", f"Hint {id}: not attempted yet.", f"{id}: right\n"]
        for what, got, want in zip(("stub", "check", "strict check", "solution"), found, expected):
            if got != want:
                wrong.append(f"{id}: the {what} gives {got!r}, expected {want!r}")
    return wrong


def read(number: str):
    if number not in NOTEBOOKS:
        pytest.skip(f"chapter {number} is not written yet")
    return nbformat.read(NOTEBOOKS[number], as_version=4)


@every_chapter
def test_exercise_cells_are_what_they_should_be(number):
    notebook = read(number)
    ids = list(CHAPTERS[number].EXERCISES)
    assert 2 <= len(ids) <= 4 and ids == [f"{number}.{k}" for k in range(1, len(ids) + 1)]
    assert faults(notebook, ids) == []


@every_chapter
def test_stubs_are_open_and_solutions_right(number, monkeypatch):
    assert run_faults(read(number), monkeypatch) == []


@every_chapter
def test_the_student_edition_is_complete_without_solutions(number):
    notebook = read(number)
    exercises = cells_of(notebook)
    strip(notebook, NOTEBOOKS[number])
    nbformat.validate(notebook)
    left = [cell.id for cell in notebook.cells]
    for id, mine, (exercise, checked, solution) in exercises:
        assert exercise.id in left and checked.id in left and solution.id not in left
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert not re.search(r"\bsolution_|Solution \d", text)


# --- the rules themselves

@pytest.fixture
def notebook(toy):
    """A chapter 99 with two exercises and no fault."""
    def three(id, name, stub, solution):
        cells = [new_code_cell(stub), new_code_cell(f'check("{id}", my_{name})'),
                 new_code_cell(f'# @title Solution {id}\n{solution}\n\ncheck("{id}", solution_{name})')]
        for cell, kind in zip(cells, ("exercise", "check")):
            cell.metadata = nbformat.from_dict({"tags": [kind], "nbgrader": nbgrader(kind, id)})
        cells[2].metadata = nbformat.from_dict({"tags": ["solution", "hide-cell"], "jupyter": {"source_hidden": True},
                                                "cellView": "form"})
        return cells

    stub = 'def my_root(x, a):\n    """Return x times the root of a."""\n    ...  # your code here'
    solution = "def solution_root(x, a):\n    return half(torch.sqrt(torch.tensor(a)) * x) * 2"
    return new_notebook(cells=[
        new_code_cell("%matplotlib inline\nimport torch\nfrom ldm_edu.course.exercises import check\ncount = slow()"),
        new_code_cell("def half(x, y=2):\n    return x / y\n\ndef other(x=count):\n    return x"),
        *three("99.1", "root", stub, solution),
        new_markdown_cell("Now count."),
        *three("99.2", "count", "my_count = ...  # your code here", "solution_count = 7"),
        new_code_cell("print('the end')")])


def _edit(n, old, new):
    def plant(nb):
        assert old in nb.cells[n].source
        nb.cells[n].source = nb.cells[n].source.replace(old, new)
    return plant


@pytest.mark.parametrize("fault, plant", {
    "": lambda nb: None,
    "code cell 2: expected an exercise, its check and its solution": lambda nb: nb.cells.pop(3),
    "code cell 2: expected an exercise, its check": lambda nb: nb.cells.insert(4, new_code_cell("1")),
    "code cell 5: expected an exercise": lambda nb: nb.cells.__delitem__(slice(8, None)),
    "code cell 2: expected": lambda nb: nb.cells[2].metadata.update(tags=["check"]),
    "code cell 3: expected check(": _edit(3, "my_root", "None"),
    "the cells check ['99.3', '99.2'], the package has": _edit(3, "99.1", "99.3"),
    "99.1: nbgrader metadata of the exercise": lambda nb: nb.cells[2].metadata.pop("nbgrader"),
    "99.1: nbgrader metadata of the check": lambda nb: nb.cells[3].metadata.nbgrader.update(points=2),
    "99.1: nbgrader metadata of the solution":
        lambda nb: nb.cells[4].metadata.update(nbgrader=nbgrader("exercise", "99.1")),
    "99.1: the check ignores its output": lambda nb: nb.cells[3].metadata.tags.append("nbval-ignore-output"),
    "99.1: the exercise does not define my_root": _edit(2, "my_root", "my_stub"),
    "99.1: expected the solution's first line": _edit(4, "# @title Solution 99.1", "# @title Solution"),
    "99.1: the solution is not folded": lambda nb: nb.cells[4].metadata.jupyter.update(source_hidden=False),
    "99.1: the solution is not folded in": lambda nb: nb.cells[4].metadata.pop("cellView"),
    "99.1: the solution is not folded in JupyterLab": lambda nb: nb.cells[4].metadata.tags.remove("hide-cell"),
    "99.1: the solution is not folded in JupyterLab, Colab and, with its output":
        lambda nb: nb.cells[4].metadata.update(tags=["solution", "hide-input"]),
    "99.1: the solution does not define and check solution_root": _edit(4, 'check("99.1"', 'check("99.2"'),
    "99.1: the solution does not define": _edit(4, "def solution_root", "def solution_roots"),
    "99.1: another cell uses my_root": _edit(9, "print(", "my_root("),
    "99.1: another cell uses solution_root": _edit(9, "'the end'", "solution_root"),
    "99.1: the solution uses my_root": _edit(4, "return half", "return my_root"),
}.items(), ids=lambda value: value if isinstance(value, str) else "")
def test_each_fault_in_the_cells_is_found(notebook, fault, plant):
    plant(notebook)
    found = faults(notebook, ["99.1", "99.2"])
    assert len(found) == bool(fault) and fault in "".join(found)


@pytest.mark.parametrize("fault, plant", {
    "": lambda nb: None,
    "99.1: the stub gives 'hello": _edit(2, "def my", "print('hello')\ndef my"),
    "99.1: the check gives '99.1: right": _edit(2, "...", "return a ** 0.5 * x"),
    "99.1: the check gives 'Hint": _edit(2, "...", "return x"),
    "99.1: the solution gives 'Hint 99.1: The values are off": _edit(4, "* 2", "* 3"),
    "99.2: the solution gives 'Hint 99.2: You count": _edit(8, "= 7", "= 6"),
}.items(), ids=lambda value: value if isinstance(value, str) else "")
def test_each_fault_of_a_run_is_found(notebook, monkeypatch, fault, plant):
    plant(notebook)
    found = run_faults(notebook, monkeypatch)
    assert bool(found) == bool(fault) and fault in "".join(found)
