"""Chapters in a real JupyterLab in a headless Chromium: run all cells, move a slider, see the picture change.

`make test-browser` installs playwright and runs this; `make test` does not collect it. Chromium is the system's (or
$CHROMIUM). Screenshots go to out/.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from ldm_edu.course.sync import ROOT

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright, as make test-browser does")
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
MINUTES = 10    # that a chapter may take on a slow machine


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[str]:
    """The address of a JupyterLab on a copy of the notebooks: it saves what it runs."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    editor = new_notebook(cells=[new_code_cell(EDITOR.strip())],
                          metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    nbformat.write(editor, folder / "notebooks/editor.ipynb")
    (folder / "data").symlink_to(ROOT / "data")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0",
               "--IdentityProvider.token=x", f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None"]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=os.environ | {
            "JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_PLATFORM_DIRS": "1"})
    try:
        yield _address(folder / "log", server)
    finally:
        server.terminate()
        server.wait(30)


def _address(log: Path, server: subprocess.Popen) -> str:
    for _ in range(240):
        if found := re.search(r"http://(?:localhost|127\.0\.0\.1):(\d+)/", log.read_text()):
            return f"http://127.0.0.1:{found[1]}"
        assert server.poll() is None, log.read_text()
        time.sleep(0.5)
    raise TimeoutError(log.read_text())


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_notebook(lab: str, browser, name: str, width: int):
    """A page of JupyterLab, `width` pixels wide, with a notebook of the copied folder and its kernel waiting."""
    page = browser.new_page(viewport={"width": width, "height": 1000})
    page.goto(f"{lab}/lab/workspaces/test-{name}-{width}/tree/notebooks/{name}.ipynb?reset&token=x")
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status "
                           "=== 'idle'", timeout=180_000)
    return page


def screenshot(name: str) -> Path:
    (ROOT / "out").mkdir(exist_ok=True)
    return ROOT / f"out/browser-{name}.png"


def run_all(page) -> list[dict]:
    """Run every cell of the notebook that is open; the code cells with their outputs."""
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    idle = """() => { const panel = window.jupyterapp.shell.currentWidget;
                      return panel.content.widgets.map(cell => cell.model).every(
                                 cell => cell.type !== 'code' || !cell.sharedModel.source.trim()
                                         || cell.executionCount !== null && cell.executionState !== 'running')
                             && panel.sessionContext.session?.kernel?.status === 'idle'; }"""
    page.wait_for_function(idle, timeout=MINUTES * 60_000, polling=1000)
    found = page.evaluate("() => JSON.stringify(window.jupyterapp.shell.currentWidget.content.model.toJSON())")
    return [cell for cell in json.loads(found)["cells"] if cell["cell_type"] == "code"]


EDITOR = """
import torch
from PIL import Image
from ldm_edu.course.widgets import MapEditor
from ldm_edu.tiny_worlds.things import CLASSES
colours = [f"#{40 + 10 * i:02X}CCEE" for i in range(len(CLASSES))]
editor = MapEditor(torch.zeros(64, 64, dtype=torch.long), lambda _: Image.new("RGB", (8, 8)), colours)
editor.widget
"""


@pytest.mark.parametrize("width", [800, 1600])
def test_the_map_editor_has_its_grid_in_narrow_and_wide_windows(lab, browser, width):
    page = open_notebook(lab, browser, "editor", width)
    run_all(page)
    cells = page.locator(".widget-gridbox button")
    cells.first.wait_for(timeout=60_000)
    boxes = [cells.nth(i).bounding_box() for i in range(cells.count())]
    panel = page.locator(".jp-OutputArea-output").first.bounding_box()
    assert len(boxes) == 64 and {(box["width"], box["height"]) for box in boxes} == {(30, 30)}
    assert all(box["x"] + box["width"] <= panel["x"] + panel["width"] for box in boxes)
    before = page.locator("img.widget-image").first.get_attribute("src")
    cells.nth(42).click()
    page.wait_for_function("before => document.querySelector('img.widget-image').src !== before", arg=before)
    page.screenshot(path=screenshot(f"editor-{width}"))
    page.close()


@pytest.mark.parametrize("chapter", ["00_tour", "07_text_to_image"])
def test_a_student_runs_a_chapter_and_moves_a_slider(lab, browser, chapter):
    if not (ROOT / f"notebooks/{chapter}.ipynb").exists():
        pytest.skip("the chapter is not written yet")
    page = open_notebook(lab, browser, chapter, width=1200)
    cells = run_all(page)
    outputs = [output for cell in cells for output in cell["outputs"]]
    errors = [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    bars = [output for output in errors if "it/s" in str(output.get("text")) or "step/s" in str(output.get("text"))]
    assert [error for error in errors if error not in bars] == []
    assert all(cell["execution_count"] for cell in cells if "".join(cell["source"]).strip())

    explore = next(i for i, cell in enumerate(page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.content.widgets.map(cell => cell.model.sharedModel.source)"))
        if "explore(" in cell)
    page.evaluate(f"() => window.jupyterapp.shell.currentWidget.content.scrollToItem({explore}, 'start')")
    picture, handle = page.locator("img.widget-image").first, page.locator(".widget-slider .noUi-handle").first
    picture.wait_for(timeout=60_000)
    content = """image => { const canvas = document.createElement('canvas'); canvas.width = image.naturalWidth;
                            canvas.height = image.naturalHeight; canvas.getContext('2d').drawImage(image, 0, 0);
                            return canvas.toDataURL(); }"""
    before = picture.evaluate(content)
    assert len(before) > 2000
    handle.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")    # the first slider may start at its left end
    deadline = time.monotonic() + 120
    while picture.evaluate(content) == before:
        assert time.monotonic() < deadline, "the picture does not follow the slider"
        time.sleep(0.5)
    picture.scroll_into_view_if_needed()
    page.screenshot(path=screenshot(chapter))
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.close()
