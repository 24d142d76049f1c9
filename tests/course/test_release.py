"""The student edition is complete without solutions, and grading it gives each submission what it deserves.

Graded as nbgrader does it (its checks restored, LDM_EDU_STRICT=1, a check that raises earns nothing), but for the cells
that neither define nor import: the chapters' trainings and pictures are executed by the notebooks' own tests.
"""
import os
import types

import nbformat
import pytest
from exercise_cells import EXERCISES, NOTEBOOKS, WRONG, cells_of, kind_of, namespace, nbgrader, said
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ldm_edu.course.release import CONFIG, main
from ldm_edu.course.sync import save


@pytest.fixture
def strict(monkeypatch):
    monkeypatch.setenv("LDM_EDU_STRICT", "1")


def points(released, submission: dict) -> dict[str, int]:
    """The points of each exercise of a released notebook. submission: id -> what the student answers, either the source
    of the exercise's cell or a value or function; the stub where there is none."""
    code = [cell for cell in released.cells if cell.cell_type == "code"]
    earned = {}
    for exercise, checked in zip(code, code[1:]):
        if kind_of(exercise) != "exercise":
            continue
        id = checked.source.split('"')[1]
        names = namespace(released, exercise)
        answer = submission.get(id, exercise.source)
        is_source = isinstance(answer, str) and "my_" in answer    # other texts are answers
        exec(answer if is_source else exercise.source, names)
        if not is_source:
            names[checked.source.split()[-1].rstrip(")")] = answer
        raised = said(exec, checked.source, names).startswith("Hint ")
        earned[id] = 0 if raised else checked.metadata.nbgrader.points
    return earned


@pytest.mark.parametrize("number", sorted(NOTEBOOKS.keys() - {"00"}))
def test_autograding(number, strict, tmp_path, capsys):
    """The stubs earn nothing, the solutions everything, and planted wrong answers nothing."""
    main(["--out", str(tmp_path), str(NOTEBOOKS[number])])
    released = nbformat.read(tmp_path / "source" / number / NOTEBOOKS[number].name, as_version=4)
    solutions = {id: three[2].source.replace("solution_", "my_")
                 for id, _, three in cells_of(nbformat.read(NOTEBOOKS[number], as_version=4))}
    full = dict.fromkeys(solutions, 1)
    assert points(released, {}) == dict.fromkeys(full, 0)
    assert points(released, solutions) == full
    wrong = sum(len(WRONG[id]) for id in full)
    for n in range(max(len(WRONG[id]) for id in full)):    # a student who is wrong everywhere, in another way each time
        assert points(released, {id: WRONG[id][n % len(WRONG[id])][0] for id in full}) == dict.fromkeys(full, 0)
    print(f"{number}: {len(full)} points; the stubs 0, the solutions {len(full)}, {wrong} wrong answers 0")


def test_a_variable_named_check_earns_nothing(strict, tmp_path, capsys):
    main(["--out", str(tmp_path), str(NOTEBOOKS["01"])])
    released = nbformat.read(tmp_path / "source/01" / NOTEBOOKS["01"].name, as_version=4)
    stubs = {cell.metadata.nbgrader.grade_id[-4:].replace("-", "."): f"{cell.source}\ncheck = print"
             for cell in released.cells if kind_of(cell) == "exercise"}
    assert len(stubs) == 4 and points(released, stubs) == dict.fromkeys(stubs, 0)


def test_every_exercise_is_graded():
    graded = [id for number, path in NOTEBOOKS.items() for id, _, _ in cells_of(nbformat.read(path, as_version=4))]
    assert set(graded) == {id for id in EXERCISES if id[:2] in NOTEBOOKS}


# --- the edition itself, on a small notebook

@pytest.fixture
def notebook():
    def cell(source, kind, graded=True):
        cell = new_code_cell(source, execution_count=1)
        cell.metadata = nbformat.from_dict({"tags": [kind]} | ({"nbgrader": nbgrader(kind, "01.1")} if graded else {}))
        return cell

    cells = [cell("my_x = ...  # your code here", "exercise"), cell('check("01.1", my_x)', "check"),
             cell('# @title Solution 01.1\nsolution_x = 1\ncheck("01.1", solution_x)', "solution", graded=False)]
    cells[1].outputs = [nbformat.v4.new_output("stream", text="01.1: not attempted yet\n")]
    return new_notebook(cells=[new_markdown_cell("# 01"), new_code_cell("print(1)"), *cells])


def test_the_student_edition(notebook, tmp_path):
    save(notebook, tmp_path / "01_x.ipynb")
    main(["--out", str(tmp_path / "out"), str(tmp_path / "01_x.ipynb")])
    released = nbformat.read(tmp_path / "out/source/01/01_x.ipynb", as_version=4)
    nbformat.validate(released)
    assert [cell.id for cell in released.cells] == [cell.id for cell in notebook.cells[:4]]
    assert [cell.source for cell in released.cells[:3]] == [cell.source for cell in notebook.cells[:3]]
    assert released.cells[3].source == f"from ldm_edu.course.exercises import check\n{notebook.cells[3].source}"
    assert released.cells[3].metadata == notebook.cells[3].metadata
    assert all(not cell.outputs and cell.execution_count is None for cell in released.cells[1:])
    assert nbformat.read(tmp_path / "01_x.ipynb", as_version=4) == notebook


def test_the_settings_of_nbgrader(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_EDU_STRICT", "0")
    save(notebook, tmp_path / "01_x.ipynb")
    arguments = ["--out", str(tmp_path), str(tmp_path / "01_x.ipynb")]
    main(arguments)
    config = tmp_path / "nbgrader_config.py"
    c = types.SimpleNamespace(**{name: types.SimpleNamespace() for name in
                                 ("CourseDirectory", "ClearSolutions", "Execute")})
    exec(config.read_text(), {"get_config": lambda: c})
    assert os.environ["LDM_EDU_STRICT"] == "1" and c.ClearSolutions.enabled is False and c.Execute.timeout == 300
    config.write_text(CONFIG + "c.Execute.timeout = 600\n")
    main(arguments)
    assert config.read_text().endswith("= 600\n"), "an instructor's settings stay"


@pytest.mark.parametrize("plant, message", [
    (lambda nb: nb.cells[4].metadata.update(tags=["check"]), "'# @title Solution 01.1' is in a cell without the tag"),
    (lambda nb: nb.cells.append(new_code_cell("print(solution_x)")), "'solution_x' is in a cell without the tag"),
])
def test_a_solution_never_slips_through(notebook, tmp_path, capsys, plant, message):
    plant(notebook)
    save(notebook, tmp_path / "01_x.ipynb")
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "out"), str(tmp_path / "01_x.ipynb")])
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["02_nowhere.ipynb", "notes.ipynb"])
def test_what_is_no_chapter_is_named(notebook, tmp_path, capsys, name):
    save(notebook, tmp_path / "notes.ipynb")
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "out"), str(tmp_path / name)])
    assert f"{name}, expected a file whose name begins with the number" in capsys.readouterr().err
