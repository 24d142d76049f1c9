"""`make badges`: one place holds the address, everything shows it, and without one nothing shows a dead link."""
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from test_notebooks import NOTEBOOKS, faults

from ldm_edu.course.badges import CLONE, main, stale
from ldm_edu.course.sync import ROOT

COLAB = "https://colab.research.google.com/github/"


@pytest.fixture
def copy(tmp_path):
    """A copy of what the script may change, without an address."""
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*", "*.md", "book"))
    main(["none"], tmp_path)
    return tmp_path


def files(root) -> dict:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def links(root) -> set[str]:
    """Every repository on GitHub or Colab that the files name."""
    text = b"\n".join(files(root).values()).decode()
    return set(re.findall(rf"(?:https://github\.com/|{re.escape(COLAB)})[\w.-]+/[\w.-]+", text))


def code(path) -> str:
    return next(cell.source for cell in nbformat.read(path, as_version=4).cells
                if cell.cell_type == "code" and CLONE.search(cell.source))


def test_what_is_stored_says_what_pyproject_says():
    assert [path.name for path in stale()] == [], "`make badges` writes it"


def test_without_an_address_no_link(copy):
    assert links(copy) == set() and "git clone" not in (copy / "README.md").read_text()
    for path in (copy / "notebooks").glob("*.ipynb"):
        assert 'raise FileNotFoundError("upload the zipped' in code(path)
        assert "badge" not in nbformat.read(path, as_version=4).cells[0].source


def test_an_address_is_everywhere_and_the_notebooks_keep_the_contract(copy, capsys):
    before = files(copy)
    main(["some-one/my.fork"], copy)
    assert capsys.readouterr().out.endswith("the repository is some-one/my.fork\n")
    after = files(copy)
    assert after.keys() == before.keys() and all(after[name] != before[name] for name in after)
    assert links(copy) == {"https://github.com/some-one/my.fork", f"{COLAB}some-one/my.fork"}
    readme = (copy / "README.md").read_text()
    assert "\ngit clone --depth 1 https://github.com/some-one/my.fork ldm_edu && cd ldm_edu\nmake lab" in readme
    assert f"({COLAB}some-one/my.fork/blob/main/notebooks/00_tour.ipynb)" in readme.split("\n\n")[1]
    for path in sorted((copy / "notebooks").glob("*.ipynb")):
        old, new = (nbformat.read(folder / path.name, as_version=4) for folder in (ROOT / "notebooks", path.parent))
        title, badge, _ = new.cells[0].source.split("\n\n", 2)
        assert title.startswith("# ") and badge.endswith(f"({COLAB}some-one/my.fork/blob/main/notebooks/{path.name})")
        assert "\n        !git clone -q --depth 1 https://github.com/some-one/my.fork ldm_edu\n" in code(path)
        assert [cell.get("outputs") for cell in new.cells] == [cell.get("outputs") for cell in old.cells]
        assert sum(a != b for a, b in zip(old.cells, new.cells)) <= 2
        assert faults(path) == faults(ROOT / "notebooks" / path.name)


def test_twice_is_once_and_another_address_replaces_it(copy):
    nowhere = files(copy)
    main(["some-one/fork"], copy)
    once = files(copy)
    for again in (["some-one/fork"], []):
        main(again, copy)
        assert files(copy) == once
    main(["other/one"], copy)
    assert links(copy) == {"https://github.com/other/one", f"{COLAB}other/one"}
    main(["some-one/fork"], copy)
    assert files(copy) == once
    main(["none"], copy)
    assert files(copy) == nowhere


def test_a_notebook_that_came_later_gets_the_address(copy):
    main(["some-one/fork"], copy)
    late = copy / "notebooks" / NOTEBOOKS[0].name
    shutil.copy(NOTEBOOKS[0], late)
    main([], copy)
    assert "github.com/some-one/fork " in code(late)


@pytest.mark.parametrize("repo", ["fork", "some one/fork", "a/b/c", "/fork", "some-one/", "a/b.git", "a/b\n", "a/é",
                                  'a/b"', "https://github.com/a/b"])
def test_what_is_no_repository_is_refused_and_changes_nothing(copy, capsys, repo):
    before = files(copy)
    with pytest.raises(SystemExit, match="2"):
        main([repo], copy)
    assert files(copy) == before
    assert f"REPO: got {repo!r}, expected owner/name as on GitHub, or none" in capsys.readouterr().err


def test_a_notebook_without_its_set_up_cell_is_named_and_nothing_changes(copy, capsys):
    path = copy / "notebooks/00_tour.ipynb"
    path.write_text(path.read_text().replace("raise FileNotFoundError(", "print("))
    before = files(copy)
    with pytest.raises(SystemExit, match="2"):
        main(["a/b"], copy)
    assert files(copy) == before
    assert "notebooks/00_tour.ipynb: got 0 cells that clone the repository" in capsys.readouterr().err


BARE = """
import importlib.util, subprocess, sys, types
sys.modules["google.colab"] = types.ModuleType("google.colab")
{cell}
import ldm_edu, ldm_edu.pipeline
print(ldm_edu.__file__, "|".join(commands))
"""


@pytest.mark.parametrize("hosted", [True, False])
def test_on_colab_the_package_comes_from_the_clone(copy, tmp_path_factory, hosted):
    """Another working folder, no installed package: the lines of the set-up cell, with the shell's recorded."""
    if hosted:
        main(["some-one/fork"], copy)
    cell = code(copy / "notebooks/00_tour.ipynb").split("%load_ext")[0]
    cell = re.sub(r"^( *)[!%](.*)$", r"\1shell('\2')", cell, flags=re.MULTILINE)
    content = tmp_path_factory.mktemp("content")
    run = f"""
commands = []
def shell(command):
    commands.append(command)
    if command.startswith("git clone"):
        subprocess.run(["mkdir", command.split()[-1]], check=True)
        subprocess.run(["cp", "-r", {str(ROOT / "ldm_edu")!r}, command.split()[-1]], check=True)
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
sys.path[:] = [entry for entry in sys.path if entry != {str(ROOT)!r}]
assert importlib.util.find_spec("ldm_edu") is None
"""
    program = BARE.format(cell=run + cell)
    ran = subprocess.run([sys.executable, "-c", program], cwd=content, capture_output=True, text=True)
    if not hosted:
        assert "FileNotFoundError: upload the zipped repository, then !unzip -q ldm_edu.zip" in ran.stderr
        return
    where, commands = ran.stdout.split()[0], ran.stdout
    assert where == str(content / "ldm_edu/ldm_edu/__init__.py") or where == "ldm_edu/ldm_edu/__init__.py", ran.stderr
    clone = "git clone -q --depth 1 https://github.com/some-one/fork ldm_edu"
    assert f"{clone}|pip install -q --no-deps -e ldm_edu" in commands
