"""The notebook contract: every notebook is stored executed and clean, and shows the package as it is."""
import re
from pathlib import Path

import nbformat
import pytest
from exercise_cells import folded
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ldm_edu.course.refresh import KERNEL, WIDGET
from ldm_edu.course.refresh import main as refresh
from ldm_edu.course.sync import ROOT, definitions, package, save, shown, sync

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TAGS = {"nbval-ignore-output", "exercise", "check", "solution", "hide-cell", "hide-input"}    # hide-…: in the book
MAX_BYTES, MAX_WORDS, MAX_LINES, MAX_IGNORED = 2 ** 20, 3400, 600, 0.4
CELLS = range(50, 71)  # of a chapter, folded figures apart; the tour may be shorter

# The lesson's public functions and classes that no chapter shows. Every other one is shown in exactly one chapter.
NOT_SHOWN = {
    "they read and write files": """load_parts load_single_file save_parts schedule_to_config load_tokenizer
        save_tokenizer read_config save_module save_folder load_lora save_lora remove_lora save_state load_state
        load_ema""",
    "they repeat the habits of diffusers' schedulers": "sampler_levels",
    "their names say what their one or two lines do": "Progress pick_batch last_x",
    "they check a request and read its pictures": "begin encode_pictures",
}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def faults(path: Path) -> list[str]:
    """What keeps the notebook at `path` from being stored as it is."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = []
    if path.stat().st_size > MAX_BYTES:
        found.append(f"{path.stat().st_size} bytes, at most {MAX_BYTES}")
    words = sum(len(cell.source.split()) for cell in notebook.cells if cell.cell_type == "markdown")
    if words > MAX_WORDS:
        found.append(f"{words} words, at most {MAX_WORDS}")
    visible = sum(bool(line.strip()) for cell in code if not folded(cell) for line in cell.source.splitlines())
    if visible > MAX_LINES:
        found.append(f"{visible} lines of code that are not folded, at most {MAX_LINES}")
    counts = [cell.execution_count for cell in code if cell.source.strip()]
    if counts != list(range(1, len(counts) + 1)):  # nbval never compares a cell that has no count
        found.append(f"execution counts {counts}, expected 1 to {len(counts)}")
    ignored = sum("nbval-ignore-output" in cell.metadata.get("tags", []) for cell in code)
    if ignored > MAX_IGNORED * len(code):
        found.append(f"{ignored} of {len(code)} code cells ignore their output, at most {MAX_IGNORED:.0%}")
    if "widgets" in notebook.metadata:
        found.append("widget state in the metadata")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append(f"kernelspec {notebook.metadata.get('kernelspec')}, expected python3")
    for cell in notebook.cells:
        if unknown := set(cell.metadata.get("tags", [])) - TAGS:
            found.append(f"unknown tags {sorted(unknown)}")
        if {"execution", "ExecuteTime"} & set(cell.metadata):
            found.append("time stamps in a cell's metadata")
    for number, cell in enumerate(code):
        if re.search(r"^\s*#\s*(NBVAL_|PYTEST_VALIDATE)", cell.source, re.MULTILINE):
            found.append(f"code cell {number} is marked by a comment, expected a tag")
        if len(places := folded(cell)) not in (0, 3):
            found.append(f"code cell {number} is folded only in {' and '.join(sorted(places))}")
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"code cell {number} stores {output.get('name', 'an error')}")
            if WIDGET in output.get("data", {}):
                found.append(f"code cell {number} stores a widget")
            for mime in output.get("data", {}):
                if mime.startswith("image/") and not output.metadata.get(mime, {}).get("alt", "").strip():
                    found.append(f"code cell {number} has a picture without alternative text: give it a title")
    return found


def widget_faults(notebook) -> list[str]:
    """What is missing of something to play with and, for previews without a kernel, the same standing still."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    explored = [number for number, cell in enumerate(code) if re.search(r"\bexplore\(", cell.source)]
    still = [number for number, cell in enumerate(code)
             if any(mime.startswith("image/") for output in cell.outputs for mime in output.get("data", {}))]
    drawn = {number - before for number in still for before in range(1 + bool(folded(code[number])))}
    return ([] if explored else ["no widget"]) + [
        f"code cell {number}: no picture after the widget" for number in explored if number + 1 not in drawn]


def test_the_tour_is_there():
    assert (ROOT / "notebooks/00_tour.ipynb").is_file()


@every_notebook
def test_clean(path):
    assert faults(path) == []


@every_notebook
def test_something_to_play_with(path):
    assert widget_faults(nbformat.read(path, as_version=4)) == []


@every_notebook
def test_is_one_sitting(path):
    cells = nbformat.read(path, as_version=4).cells
    count = len(cells) - sum("hide-input" in cell.metadata.get("tags", []) for cell in cells)
    assert count in CELLS or path.stem == "00_tour" and count < CELLS.stop


@every_notebook
def test_in_sync_with_the_package(path):
    known = package()
    for number, definition in shown(nbformat.read(path, as_version=4), known):
        original = known[definition.name]
        assert definition.source == original.source, \
            f"code cell {number}: {definition.name} differs from {original.module}; `make sync` copies it"


def misplaced(known: dict, notebooks: dict, not_shown: dict[str, str]) -> list[str]:
    """Definitions shown in two of the notebooks, by name; those of the lesson shown in none, unless `not_shown`."""
    places: dict[str, set[str]] = {}
    for place, notebook in notebooks.items():
        for _, definition in shown(notebook, known):
            places.setdefault(definition.name, set()).add(place)
    lesson = {name for name, d in known.items() if d.module.count(".") == 1 and not d.constant}    # no room below
    left_out = set(" ".join(not_shown.values()).split())
    return [f"{name}: {what}" for what, names in {
        "shown in two chapters": {name for name, chapters in places.items() if len(chapters) > 1},
        "show it in a chapter or give a reason in NOT_SHOWN": lesson - places.keys() - left_out,
        "shown, but listed in NOT_SHOWN": places.keys() & left_out,
        "in NOT_SHOWN, but not in the lesson": left_out - lesson}.items() for name in sorted(names)]


def test_every_definition_of_the_lesson_has_its_chapter():
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in NOTEBOOKS}
    assert misplaced(package(), notebooks, NOT_SHOWN) == []


# --- the rules themselves

@pytest.fixture
def notebook():
    """A small notebook that breaks no rule."""
    code = [new_code_cell(f"print({n})", execution_count=n, outputs=[new_output("stream", text=f"{n}\n")])
            for n in (1, 2, 3)]
    code[0].metadata["tags"] = ["nbval-ignore-output"]
    return new_notebook(cells=[new_markdown_cell("Some words."), *code], metadata={"kernelspec": KERNEL})


def _outputs(nb, *outputs):
    nb.cells[1].outputs = list(outputs)


def _fold(nb, **metadata):
    nb.cells[1].update(source="# @title One\nprint(1)")
    nb.cells[1].metadata.update(metadata)


@pytest.mark.parametrize("fault, plant", {
    "": lambda nb: None,
    "bytes": lambda nb: nb.cells.append(new_markdown_cell("x" * 2 ** 20)),
    "3402 words": lambda nb: nb.cells.append(new_markdown_cell("word " * 3400)),
    "602 lines of code": lambda nb: nb.cells[1].update(source="print(1)\n\n" * 600),
    "execution counts [1, None, 3]": lambda nb: nb.cells[2].update(execution_count=None),
    "execution counts [2, 2, 3]": lambda nb: nb.cells[1].update(execution_count=2),
    "2 of 3 code cells ignore": lambda nb: nb.cells[2].metadata.update(tags=["nbval-ignore-output"]),
    "widget state": lambda nb: nb.metadata.update(widgets={}),
    "expected python3": lambda nb: nb.metadata.kernelspec.update(name="ldm"),
    "unknown tags ['nbval-skip']": lambda nb: nb.cells[3].metadata.update(tags=["nbval-skip"]),
    "time stamps": lambda nb: nb.cells[2].metadata.update(execution={"iopub.execute_input": "2026"}),
    "marked by a comment": lambda nb: nb.cells[2].update(source="# NBVAL_IGNORE_OUTPUT\nprint(2)"),
    "stores stderr": lambda nb: _outputs(nb, new_output("stream", name="stderr", text="Warning")),
    "stores an error": lambda nb: _outputs(nb, new_output("error", ename="E", evalue="", traceback=[])),
    "stores a widget": lambda nb: _outputs(nb, new_output("display_data", {WIDGET: {"model_id": "1"}})),
    "a picture without": lambda nb: _outputs(nb, new_output("display_data", {"image/png": "x"})),
    "a picture without alternative text": lambda nb: _outputs(nb, new_output(
        "display_data", {"image/gif": "x"}, metadata={"image/gif": {"alt": " "}})),
    "folded only in JupyterLab": lambda nb: _fold(nb, jupyter={"source_hidden": True}),
    "folded only in Colab and the book": lambda nb: _fold(nb, cellView="form", tags=["hide-input"]),
}.items(), ids=lambda value: value if isinstance(value, str) else "")
def test_each_fault_is_found(notebook, tmp_path, fault, plant):
    plant(notebook)
    save(notebook, tmp_path / "n.ipynb")
    found = faults(tmp_path / "n.ipynb")
    assert len(found) == bool(fault) and fault in "".join(found)


@pytest.mark.parametrize("source, mime, wrong", [
    ("widgets.explore(draw)", "image/png", []),
    ("explore(draw)", "text/html", ["code cell 1: no picture after the widget"]),
    ("explored = 3", "image/png", ["no widget"]),
])
def test_a_missing_widget_or_strip_is_found(notebook, source, mime, wrong):
    notebook.cells[2].source = source
    notebook.cells[3].outputs = [new_output("display_data", {mime: "x"})]
    assert widget_faults(notebook) == wrong


PACKAGE = '''\
import functools

RATE = 0.5  # per step
A, B = (1,
        2)


@functools.cache
def halve(x):
    """Half of x."""
    return RATE * x  # (B,)


class Model:
    size = 3


def _private():
    return 1


def main():
    pass
'''


@pytest.fixture
def known(tmp_path):
    (tmp_path / "one.py").write_text(PACKAGE)
    (tmp_path / "two.py").write_text("def main():\n    return 2\n")
    for room, name in (("room", "third"), ("course", "draw"), ("course/exercises", "right")):
        (tmp_path / room).mkdir()
        (tmp_path / room / "three.py").write_text(f"def {name}(x):\n    return x / 3\n")
    return package(tmp_path)


def test_public_names_of_one_module_are_markers(known):
    assert set(known) == {"RATE", "A", "B", "halve", "Model", "third"}, "course's are the notebooks' tools"
    assert known["third"].module.endswith(".room.three")
    assert known["halve"].source == PACKAGE[PACKAGE.index("@functools"):PACKAGE.index("\n\n\nclass")]
    assert known["RATE"].source == "RATE = 0.5  # per step"


@pytest.mark.parametrize("cell, stale", [
    (PACKAGE, []),
    ("%matplotlib inline\nif 1:\n    !ls\nhalve?\n" + PACKAGE.replace("0.5", "0.6"), ["RATE"]),
    (PACKAGE.replace("(B,)", "(B)"), ["halve"]),
    (PACKAGE.replace("@functools.cache\n", ""), ["halve"]),
    (PACKAGE.replace("size = 3", "size = 4").replace("1,\n        2", "1, 2"), ["A", "B", "Model"]),
    ("def _private():\n    return 2\n\ndef main():\n    return 3\n\ndef halve_naive(x):\n    return x", []),
    ("halve = Model = 3", []),                        # variables
    ("def RATE():\n    pass", ["RATE"]),
    ("%%html\n<b>def halve", []),
    ("%%time\ndef halve(x):\n    return x", ["halve"]),
    ("def f():\n    def halve(x):\n        return x", []),
])
def test_sync(known, tmp_path, cell, stale):
    notebook = new_notebook(cells=[new_markdown_cell("# halve"), new_code_cell("1 + 1"), new_code_cell(cell)])
    assert sync(notebook, known) == [(1, name) for name in stale]
    assert sync(notebook, known) == []
    assert {d.source for _, d in shown(notebook, known)} <= {d.source for d in known.values()}
    untouched = [[d.source for d in definitions(text) if d.name not in stale]
                 for text in (cell, notebook.cells[2].source)]
    assert untouched[0] == untouched[1]


@pytest.mark.parametrize("chapters, not_shown, wrong", [
    ({"01": "halve", "02": "Model"}, "", []),
    ({"01": "halve RATE third"}, "Model", []),
    ({"01": "halve"}, "", ["Model: show it in a chapter or give a reason in NOT_SHOWN"]),
    ({"01": "halve Model", "02": "Model"}, "", ["Model: shown in two chapters"]),
    ({"01": "halve Model third", "02": "third"}, "", ["third: shown in two chapters"]),
    ({"01": "halve Model RATE", "02": "RATE"}, "", ["RATE: shown in two chapters"]),
    ({"01": "halve Model"}, "Model", ["Model: shown, but listed in NOT_SHOWN"]),
    ({"01": "halve Model"}, "double third", ["double: in NOT_SHOWN, but not in the lesson",
                                             "third: in NOT_SHOWN, but not in the lesson"]),
])
def test_a_definition_without_its_place_is_found(known, chapters, not_shown, wrong):
    notebooks = {number: new_notebook(cells=[new_code_cell(known[name].source) for name in names.split()])
                 for number, names in chapters.items()}
    assert misplaced(known, notebooks, {"a reason": not_shown}) == wrong


def test_a_saved_notebook_reads_as_before(notebook, tmp_path):
    notebook.cells[0].source = "ᾱ and ε\n\n"
    save(notebook, tmp_path / "n.ipynb")
    text = (tmp_path / "n.ipynb").read_text(encoding="utf-8")
    assert "ᾱ" in text and text.startswith('{\n "cells"') and text.endswith("}\n")
    assert nbformat.read(tmp_path / "n.ipynb", as_version=4) == notebook
    assert [path.name for path in tmp_path.iterdir()] == ["n.ipynb"]


def test_refresh(notebook, tmp_path, capsys):
    good, bad = tmp_path / "good.ipynb", tmp_path / "bad.ipynb"
    notebook.cells[1].source = ("from IPython.display import Image, display\n"
                                f"display({{{WIDGET!r}: {{}}}}, raw=True)\n"
                                "Image(b'picture', format='png', metadata={'alt': 'A picture'})")
    kept = {"jupyter": {"source_hidden": True}, "cellView": "form", "tags": ["hide-input"]}
    notebook.cells[2].metadata = nbformat.from_dict(kept | {"execution": {}})
    notebook.cells[2].source = "# @title Two\nprint(2)"
    save(notebook, good)
    notebook.cells[2].source = "import sys\nprint('oops', file=sys.stderr)"
    save(notebook, bad)
    before = bad.read_bytes()
    assert refresh([str(good), str(bad)]) == 1
    assert "code cell 1 writes to stderr: oops" in capsys.readouterr().err
    assert bad.read_bytes() == before and faults(good) == []
    cells = nbformat.read(good, as_version=4).cells
    assert [output.output_type for output in cells[1].outputs] == ["execute_result"]
    assert cells[1].outputs[0].metadata == {"image/png": {"alt": "A picture"}}
    assert cells[2].metadata == kept and cells[2].outputs[0].text == "2\n"

    stored = good.read_bytes()
    assert refresh(["--out", str(tmp_path / "out"), str(good)]) == 0
    assert good.read_bytes() == stored == (tmp_path / "out/good.ipynb").read_bytes()
    assert (tmp_path / "out/good.png").read_bytes() == b"picture"
