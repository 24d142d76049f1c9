"""The claims: every statement to be measured has a sound entry, every entry of a written chapter its measuring cell.

A claim is pending while its chapter has no notebook, and only then.
"""
import ast
import dataclasses

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output

from ldm_edu import DATA
from ldm_edu.course import claims
from ldm_edu.course.claims import Claim, claim, claims_table, read_claims
from ldm_edu.course.sync import ROOT, python

MARKED = {  # the statements of the article that the series promises to measure, and in which chapters
    "forward": "01",
    "reverse": "02", "memory-states": "02 10", "unet": "02",
    "perceptual-compression": "03", "perceptual-loss": "03", "semantic-compression": "03 06",
    "transformers": "04", "clip": "04",
    "cross-attention": "05",
    "latent-loss": "06", "conditional-loss": "06", "ldm": "06", "detail-cost": "06",
    "text-to-image": "07", "image-to-image": "08", "sd-is-ldm": "09",
    "gan-unstable": "10", "gan-collapse": "10", "gan-multimodal": "10", "gan-slow": "10", "diverse": "10",
    "structure": "10",
}
VERDICTS = ("supported", "qualified", "refuted")
CHAPTERS = {path.stem[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def wrong_entries(ledger: str) -> list[str]:
    """What is wrong with the text of claims.yaml, for its author: missing, unknown and contradictory fields."""
    ids = [key.value for key, _ in yaml.compose(ledger).value]
    wrong = [f"{id}: two entries" for id in sorted(set(ids)) if ids.count(id) > 1]    # yaml keeps the last
    for id, entry in yaml.safe_load(ledger).items():
        fields = {field.name for field in dataclasses.fields(Claim)} - {"id"}
        how, figure = entry.get("how", {}), entry.get("figure", {})
        verdict, correction = entry.get("verdict", ""), entry.get("correction", "")
        texts = [entry.get("statement"), *how.values(), *figure.values(), *[correction] * ("correction" in entry)]
        wrong += [f"{id}: {text!r} is not one line of text (numbers in quotes)" for text in texts
                  if not isinstance(text, str) or not text or text != " ".join(text.split())]
        wrong += [f"{id}: {message}" for message, holds in {
            f"unknown fields {sorted(entry.keys() - fields)}": entry.keys() <= fields,
            "chapters, in quotes, expected under how": how and all(isinstance(chapter, str) for chapter in how),
            "a figure in a chapter that is not under how": figure.keys() <= how.keys(),
            f"verdict {verdict!r}, expected one of {VERDICTS}": verdict in ("", *VERDICTS),
            "a verdict without a figure, or a figure without a verdict": bool(verdict) == bool(figure),
            "expected a correction if and only if the verdict is qualified or refuted":
                bool(correction) == (verdict in ("qualified", "refuted"))}.items() if not holds]
    return wrong


def claimed(source: str) -> set[str]:
    """Ids of the claims that a cell ends with: `claim("forward", ...)`."""
    calls = [node for node in ast.walk(ast.parse(python(source))) if isinstance(node, ast.Call)]
    return {call.args[0].value for call in calls if isinstance(call.func, ast.Name) and call.func.id == "claim"
            and call.args and isinstance(call.args[0], ast.Constant)}


def asserts(source: str) -> bool:
    """Whether a cell asserts something about a variable, with `assert` or torch's `assert_close`."""
    for node in ast.walk(ast.parse(python(source))):
        tested = node.test if isinstance(node, ast.Assert) else None
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("assert_close"):
            tested = node
        if tested and any(isinstance(part, ast.Name) for part in ast.walk(tested)):
            return True
    return False


def faults(chapter: str, notebook, ledger: dict[str, Claim]) -> list[str]:
    """What keeps the claims of a written chapter from being measured in it; `notebook` is None if there is none."""
    if notebook is None:
        return [f"{id}: a figure, but no chapter {chapter}" for id, entry in ledger.items() if chapter in entry.figure]
    found, claims_of = [], [(cell, claimed(cell.source)) for cell in notebook.cells if cell.cell_type == "code"]
    for id, entry in ledger.items():
        cells = [cell for cell, ids in claims_of if id in ids]
        if chapter not in entry.how:
            found += [f"{id}: claimed, but its entry does not name chapter {chapter}"] * bool(cells)
        elif len(cells) != 1:
            found.append(f"{id}: {len(cells)} measuring cells, expected one that calls claim({id!r}, ...)")
        elif chapter not in entry.figure:
            found.append(f"{id}: no figure in data/claims.yaml for chapter {chapter}")
        else:
            cell, = cells
            if not asserts(cell.source):
                found.append(f"{id}: its cell asserts nothing about what it measured")
            if "nbval-ignore-output" in cell.metadata.get("tags", []):
                found.append(f"{id}: its cell ignores its output")
            printed = "".join(output.get("text", "") for output in cell.outputs)
            lines = printed.replace("\n" + " " * 10, " ").split("\n")    # wrapped lines in one
            if f"measured  {entry.figure[chapter]}" not in lines:
                found.append(f"{id}: its cell does not print the figure {entry.figure[chapter]!r}")
            if f"verdict   {entry.verdict}" not in (line.split(".")[0] for line in lines):
                found.append(f"{id}: its cell does not print the verdict {entry.verdict!r}")
    return found


def test_every_entry_is_sound():
    assert wrong_entries((DATA / "claims.yaml").read_text(encoding="utf-8")) == []


def test_every_marked_statement_has_an_entry_for_its_chapters():
    assert {id: " ".join(entry.how) for id, entry in read_claims().items()} == MARKED


@pytest.mark.parametrize("chapter", sorted({chapter for chapters in MARKED.values() for chapter in chapters.split()}))
def test_every_claim_of_a_written_chapter_is_measured_in_it(chapter):
    path = CHAPTERS.get(chapter)
    assert faults(chapter, path and nbformat.read(path, as_version=4), read_claims()) == []


# --- the rules themselves

LEDGER = """
wet:
  statement: Water is wet.
  how: {"01": touch it, "02": look at it}
  figure: {"01": 3 of 3 fingers}
  verdict: qualified
  correction: Ice is not.
dry:
  statement: Sand is dry.
  how: {"02": touch it}
"""
MEASURES = "assert fingers == 3\nclaim('wet', f'{fingers} of 3 fingers')"
PRINTED = """\
claim     wet: Water is wet.
measured  3 of 3 fingers
verdict   qualified. Ice is not.
"""


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    (tmp_path / "claims.yaml").write_text(LEDGER, encoding="utf-8")
    monkeypatch.setattr(claims, "DATA", tmp_path)
    return tmp_path / "claims.yaml"


@pytest.fixture
def notebook():
    """Chapter 01 of that ledger, without a fault."""
    return new_notebook(cells=[new_code_cell("from ldm_edu.course.claims import claim\nfingers = 3"),
                               new_code_cell(MEASURES, outputs=[new_output("stream", text=PRINTED)])])


def _source(nb, old, new):
    nb.cells[1].source = nb.cells[1].source.replace(old, new)


def _output(nb, old, new):
    nb.cells[1].outputs[0].text = nb.cells[1].outputs[0].text.replace(old, new)


@pytest.mark.parametrize("fault, plant", {
    "": lambda nb: None,
    "wet: 0 measuring cells": lambda nb: nb.cells.pop(),
    "wet: 0 measuring": lambda nb: _source(nb, "claim(", "# claim("),
    "wet: 2 measuring": lambda nb: nb.cells.append(nb.cells[1]),
    "dry: claimed, but its entry does not name chapter 01":
        lambda nb: nb.cells.append(new_code_cell("claim('dry', 'very')")),
    "wet: its cell asserts nothing": lambda nb: _source(nb, "assert fingers == 3", "assert True"),
    "wet: its cell asserts nothing about": lambda nb: _source(nb, "assert fingers == 3", "fingers == 3"),
    "wet: its cell ignores": lambda nb: nb.cells[1].metadata.update(tags=["nbval-ignore-output"]),
    "does not print the figure '3 of 3": lambda nb: _output(nb, "3 of 3", "2 of 3"),
    "does not print the figure": lambda nb: _output(nb, "fingers", "fingers   (entered: 3 of 3 fingers)"),
    "does not print the verdict 'qualified'": lambda nb: _output(nb, "qualified", "supported"),
}.items(), ids=lambda value: value if isinstance(value, str) else "")
def test_each_fault_is_found(ledger, notebook, fault, plant):
    plant(notebook)
    found = faults("01", notebook, read_claims())
    assert len(found) == bool(fault) and fault in "".join(found)


def test_a_chapter_without_its_figure_and_a_figure_without_its_chapter_are_found(ledger, notebook):
    assert faults("02", notebook, read_claims()) == [
        "wet: no figure in data/claims.yaml for chapter 02",
        "dry: 0 measuring cells, expected one that calls claim('dry', ...)"]
    assert faults("01", None, read_claims()) == ["wet: a figure, but no chapter 01"]
    assert faults("02", None, read_claims()) == []


def test_torchs_assert_close_is_an_assertion():
    assert asserts("%time\ntorch.testing.assert_close(a, 1.0)") and not asserts("print(a)")


@pytest.mark.parametrize("old, new, message", [
    ("", "", ""),
    ("verdict: qualified", "verdict: plausible", "wet: verdict 'plausible', expected one of"),
    ("verdict: qualified", "verdict: supported", "wet: expected a correction if and only if"),
    ("correction: Ice is not.", "", "wet: expected a correction"),
    ("verdict: qualified\n  correction: Ice is not.", "", "wet: a verdict without a figure, or a figure without"),
    ("figure: {\"01\": 3 of 3 fingers}", "", "wet: a verdict without a figure"),
    ("3 of 3 fingers", "3.0", "wet: 3.0 is not one line of text"),
    ("3 of 3 fingers", "''", "wet: '' is not one line"),
    ("figure: {\"01\"", "figure: {01", "wet: a figure in a chapter that is not under how"),
    ("figure: {\"01\"", "figure: {\"03\"", "wet: a figure in a chapter"),
    ("how: {\"02\": touch it}", "how: {02: touch it}", "dry: chapters, in quotes"),
    ("how: {\"02\": touch it}", "", "dry: chapters"),
    ("Water is wet.", "\"Water\\n is wet.\"", "wet: 'Water\\n is wet.' is not one line"),
    ("statement: Water is wet.", "", "wet: None is not one line"),
    ("statement: Sand", "sentence: x\n  statement: Sand", "dry: unknown fields ['sentence']"),
    ("wet:", "dry:", "dry: two entries"),
])
def test_a_wrong_entry_is_named(old, new, message):
    wrong = wrong_entries(LEDGER.replace(old, new, 1))
    assert bool(wrong) == bool(message) and message in "".join(wrong)


def test_claim_prints_statement_figure_and_verdict(ledger, capsys):
    claim("wet", "3 of 3 fingers")
    assert capsys.readouterr().out == PRINTED


def test_claim_says_that_another_figure_is_entered(ledger, capsys):
    claim("wet", "2 of 3 fingers")
    assert "measured  2 of 3 fingers   (entered: 3 of 3 fingers)\n" in capsys.readouterr().out


def test_long_texts_are_wrapped(ledger, capsys, monkeypatch):
    entry, figure = read_claims()["wet"], "figure " * 20 + "end"
    entry = dataclasses.replace(entry, statement="word " * 30 + "end", figure={"01": figure})
    monkeypatch.setattr(claims, "read_claims", lambda: {"wet": entry})
    claim("wet", figure)
    printed = capsys.readouterr().out
    assert f"\nmeasured  {figure}\n" in printed.replace("\n" + " " * 10, " ")
    assert "\n" + " " * 10 + "word" in printed and all(len(line) <= 88 for line in printed.split("\n"))


def test_an_unknown_claim_is_named(ledger):
    with pytest.raises(ValueError, match=r"claim: got 'wett', expected one of wet, dry"):
        claim("wett", "very")


def test_the_table_shows_what_is_measured_and_what_is_planned(ledger):
    assert claims_table(read_claims().values()).split("\n")[2:] == [
        "| `wet` | Water is wet. | 01: 3 of 3 fingers; 02: *planned* | **qualified** Ice is not. |",
        "| `dry` | Sand is dry. | 02: *planned* |  |"]
