"""The book has every chapter and page, and their links stay in it. `make book` builds it, or names the broken link."""
import re
import runpy
from pathlib import Path

import nbformat
import pytest
from test_notebooks import NOTEBOOKS
from test_readme import PAGES

from ldm_edu.course.sync import ROOT

CONF = runpy.run_path(str(ROOT / "notebooks/book/conf.py"))
BOOK = {path for pattern in CONF["include_patterns"] for path in ROOT.glob(pattern) if path.suffix in (".md", ".ipynb")}


def words(page: Path) -> str:
    """The Markdown of a page or a chapter."""
    if page.suffix == ".md":
        return page.read_text(encoding="utf-8")
    return "\n\n".join(cell.source for cell in nbformat.read(page, as_version=4).cells if cell.cell_type == "markdown")


def test_the_contents_list_every_page_once_and_the_chapters_first():
    lines = [line.split("<")[-1].rstrip(">") for line in CONF["CONTENTS"].splitlines() if re.match(r"\w", line)]
    listed = [path for line in lines for path in sorted(ROOT.glob(f"{line.removesuffix('*')}*"))
              if path.suffix in (".md", ".ipynb")]
    assert listed[:len(NOTEBOOKS)] == NOTEBOOKS
    front = ROOT / f"{CONF['root_doc']}.md"
    assert sorted([front, *listed]) == sorted(BOOK) == sorted({*NOTEBOOKS, *PAGES, ROOT / "notebooks/glossary.md"})


@pytest.mark.parametrize("page", sorted(BOOK), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_pages_stay_in_the_book(page):
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", words(page)) if "://" not in link]
    pages = {(page.parent / link).resolve() for link in links if link.endswith((".md", ".ipynb"))}
    assert pages <= BOOK, pages - BOOK


def test_nothing_is_executed():
    assert CONF["nb_execution_mode"] == "off"
