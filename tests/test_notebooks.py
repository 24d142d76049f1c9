"""The notebook contract: every notebook is stored executed and clean, and shows the package as it is."""
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from refresh import KERNEL, WIDGET
from refresh import main as refresh
from sync import ROOT, definitions, package, save, shown, sync

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TAGS = {"nbval-ignore-output", "exercise", "check", "solution"}
MAX_BYTES, MAX_WORDS, MAX_IGNORED = 2 ** 20, 2500, 0.4

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
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"code cell {number} stores {output.get('name', 'an error')}")
            if WIDGET in output.get("data", {}):
                found.append(f"code cell {number} stores a widget")
    return found


def test_the_tour_is_there():
    assert (ROOT / "notebooks/00_tour.ipynb").is_file()


@every_notebook
def test_clean(path):
    assert faults(path) == []


@every_notebook
def test_in_sync_with_the_package(path):
    known = package()
    for number, definition in shown(nbformat.read(path, as_version=4), known):
        original = known[definition.name]
        assert definition.source == original.source, \
            f"code cell {number}: {definition.name} differs from {original.module}.py; `make sync` copies it"


def test_no_definition_is_shown_in_two_chapters():
    known, first = package(), {}
    for path in NOTEBOOKS:
        for _, definition in shown(nbformat.read(path, as_version=4), known):
            other = first.setdefault(definition.name, path)
            assert other == path, f"{definition.name}: shown in {other.name} and {path.name}"


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


@pytest.mark.parametrize("fault, plant", {
    "": lambda nb: None,
    "bytes": lambda nb: nb.cells.append(new_markdown_cell("x" * 2 ** 20)),
    "2502 words": lambda nb: nb.cells.append(new_markdown_cell("word " * 2500)),
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
}.items(), ids=lambda value: value if isinstance(value, str) else "")
def test_each_fault_is_found(notebook, tmp_path, fault, plant):
    plant(notebook)
    save(notebook, tmp_path / "n.ipynb")
    found = faults(tmp_path / "n.ipynb")
    assert len(found) == bool(fault) and fault in "".join(found)


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
    return package(tmp_path)


def test_public_names_of_one_module_are_markers(known):
    assert set(known) == {"RATE", "A", "B", "halve", "Model"}
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
                                f"display({{{WIDGET!r}: {{}}}}, raw=True)\nImage(b'picture', format='png')")
    notebook.cells[2].metadata = nbformat.from_dict({"jupyter": {"source_hidden": True}, "execution": {}})
    save(notebook, good)
    notebook.cells[2].source = "import sys\nprint('oops', file=sys.stderr)"
    save(notebook, bad)
    before = bad.read_bytes()
    assert refresh([str(good), str(bad)]) == 1
    assert "code cell 1 writes to stderr: oops" in capsys.readouterr().err
    assert bad.read_bytes() == before and faults(good) == []
    cells = nbformat.read(good, as_version=4).cells
    assert [output.output_type for output in cells[1].outputs] == ["execute_result"]
    assert cells[2].metadata == {"jupyter": {"source_hidden": True}} and cells[2].outputs[0].text == "2\n"

    stored = good.read_bytes()
    assert refresh(["--out", str(tmp_path / "out"), str(good)]) == 0
    assert good.read_bytes() == stored == (tmp_path / "out/good.ipynb").read_bytes()
    assert (tmp_path / "out/good.png").read_bytes() == b"picture"
