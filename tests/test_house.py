"""The rooms of the package: what stands where, what may import what, and how large a file and a definition may be."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ldm_edu

HOUSE = Path(ldm_edu.__file__).parent
MAY_IMPORT = {    # room -> the rooms that it may import besides itself; "lesson" is the top floor
    "support": (),
    "lesson": ("support",),
    "tiny_worlds": ("support",),
    "metrics": ("lesson", "support", "tiny_worlds"),
    "doctor": ("lesson", "support", "tiny_worlds", "metrics"),
    "recipes": ("lesson", "support", "tiny_worlds", "metrics", "doctor"),
    "studies": ("lesson", "support", "tiny_worlds", "metrics", "doctor", "recipes"),
    "course": ("lesson", "support", "tiny_worlds", "metrics", "doctor", "recipes", "studies"),
}
MAX_LESSON_FILES, MAX_LESSON, MAX_PACKAGE = 20, 2510, 11_390    # files; lines; 9,000 is the aim for the package
MAX_FILE, MAX_DEFINITION = 250, 55    # lines; in a definition, docstrings and blank lines are not counted
LONGER = {"LatentDiffusion": 81}      # the whole interface of a model

FILES = sorted(path for path in HOUSE.rglob("*.py") if path.name != "__init__.py")
LESSON = sorted(path for path in HOUSE.glob("*.py") if path.name != "__init__.py")
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))


def room_of(path: Path) -> str:
    """The room in which a file of the package stands."""
    parts = path.relative_to(HOUSE).parts
    return parts[0] if len(parts) > 1 else "lesson"


def imported_rooms(source: str, path: Path) -> set[str]:
    """The rooms that a file of the package imports from, inside functions too."""
    package = ("ldm_edu", *path.relative_to(HOUSE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else ()
            base += tuple(filter(None, (node.module or "").split(".")))
            found |= {(*base, alias.name) for alias in node.names}
    return {room(parts[1:]) for parts in found if parts[0] == "ldm_edu" and parts[1:2] not in ((), ("DATA",))}


def room(parts: tuple[str, ...]) -> str:
    """The room of a module or a name in it, by the parts of its dotted name after "ldm_edu"."""
    return parts[0] if (HOUSE / parts[0]).is_dir() else "lesson"


def length(definition: ast.FunctionDef | ast.ClassDef, source: str) -> int:
    """Its lines of code."""
    lines = set(range(definition.lineno, definition.end_lineno + 1))
    lines -= {number for number, line in enumerate(source.split("\n"), start=1) if not line.strip()}
    for node in ast.walk(definition):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def lines_of(paths) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


# ---- The measuring tools ----

def test_length_counts_code():
    source = 'class A:\n    """One\n    two."""\n\n    def f(self):\n        """Three."""\n        return 1\n'
    assert length(ast.parse(source).body[0], source) == 3


@pytest.mark.parametrize("source, rooms", [
    ("import ldm_edu.course.viz", {"course"}), ("from ldm_edu import blocks, course", {"lesson", "course"}),
    ("from . import clip", {"metrics"}), ("from .oracle import Oracle", {"metrics"}), ("from .. import DATA", set()),
    ("def f():\n    from ..recipes.runner import run", {"recipes"}), ("from ..unet import UNet", {"lesson"}),
    ("from .. import unet, studies", {"lesson", "studies"}), ("import torch\nfrom torch import weights", set())])
def test_imports_are_found(source, rooms):
    assert imported_rooms(source, HOUSE / "metrics" / "oracle.py") == rooms


# ---- The rules ----

@every_file
def test_a_room_imports_only_what_it_may(path):
    allowed = {*MAY_IMPORT[room_of(path)], room_of(path)}
    assert imported_rooms(path.read_text(encoding="utf-8"), path) <= allowed


def test_every_room_has_its_rule_and_says_what_it_is_for():
    rooms = {path.name for path in HOUSE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms == MAY_IMPORT.keys() - {"lesson"}
    for name in rooms:
        assert ast.get_docstring(ast.parse((HOUSE / name / "__init__.py").read_text(encoding="utf-8"))), name


def test_no_two_files_share_a_name():
    names = [path.stem for path in FILES if path.stem != "__main__"] + [*MAY_IMPORT]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)


def test_the_lesson_fits_one_glance_and_the_package_its_promise():
    print(f"\nlesson: {len(LESSON)} files, {lines_of(LESSON)} lines; package: {lines_of(HOUSE.rglob('*.py'))} lines")
    assert len(LESSON) <= MAX_LESSON_FILES and lines_of(LESSON) <= MAX_LESSON
    assert lines_of(HOUSE.rglob("*.py")) <= MAX_PACKAGE


@every_file
def test_a_file_fits_the_eye_and_a_definition_fits_a_cell(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_FILE
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert length(node, source) <= LONGER.get(node.name, MAX_DEFINITION), node.name


@every_file
def test_is_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in tree.body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if public and not node.name.startswith("draw_") and path.parent.name != "exercises":    # they say it
            assert ast.get_docstring(node), node.name


@pytest.mark.parametrize("path", LESSON, ids=lambda path: path.stem)
def test_a_definition_of_the_lesson_holds_at_most_one_check(path):
    """Of each function: calls of a check, or an `if` that raises. Doors and readers of foreign files have more."""
    doors = {"checkpoint", "weights", "pipeline", "editing", "lora", "tokenizer"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and path.stem not in doors and node.name != "__post_init__":
            checks = [part for part in ast.walk(node) if isinstance(part, ast.Expr) and _is_check(part.value)
                      or isinstance(part, ast.If) and any(isinstance(then, ast.Raise) for then in part.body)]
            assert len(checks) <= (2 if node.name == "timesteps" else 1), node.name


def _is_check(value: ast.expr) -> bool:
    name = value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else ""
    return name == "expect" or name.startswith("check_")


@pytest.mark.parametrize("room", ["metrics", "doctor", "recipes", "studies"])
def test_a_command_lists_its_options_without_importing_torch(room):
    code = (f"import sys; from ldm_edu.{room}.__main__ import main\n"
            "try:\n    main(['--help'])\nfinally:\n    assert 'torch' not in sys.modules")
    assert "usage: python -m ldm_edu." in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                                                         check=True).stdout


def test_functions_and_classes_have_names_of_their_own():
    """The name is the marker for live notebooks and their sync. Constants may share one: `unet.TINY`."""
    first = {}
    for path in FILES:
        if room_of(path) != "course":
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                known = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
                if known and node.name not in ("main", "run", "add_options"):    # of the commands
                    assert first.setdefault(node.name, path) == path, f"{node.name}: {first[node.name]} and {path}"


@every_file
def test_text_is_utf8_on_every_system(path):
    """Windows would take another encoding where none is said."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    for call in calls:
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        is_file = name in ("read_text", "write_text") or name == "open" and isinstance(call.func, ast.Name)
        binary = any(isinstance(value, ast.Constant) and "b" in str(value.value) for value in call.args[1:2])
        assert not is_file or binary or "encoding" in {word.arg for word in call.keywords}, f"line {call.lineno}"
