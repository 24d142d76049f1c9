"""The package is flat, each module imports only modules before it, each definition fits a notebook cell.

The exercises, one module a chapter, may import anything before viz, and nothing imports them.
"""
import ast

import pytest

from ldm_edu.course.sync import ROOT, definitions

ORDER = """pictures painting landscape scenes worlds files schedule samplers blocks unet autoencoder perceptual
           distances clip layouts conditioning weights folders editing pipeline training segmenter oracle metrics
           contrastive retrieval attention_maps first_stage second_stage lora judges loss_study sampler_study
           strength_study pixel_model gan gan_study bench recipes checkup doctor own_data faults claims map_editor viz
           live exercises""".split()
MAX_MODULE, MAX_DEFINITION = 275, 55  # lines; in a definition, docstrings and blank lines are not counted

MODULES = sorted((ROOT / "ldm_edu").glob("[!_]*.py"))
EXERCISES = sorted((ROOT / "ldm_edu/exercises").glob("*.py"))
every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)


def imported(source: str) -> set[str]:
    """Modules of the package that `source` imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["ldm_edu" if node.level else "", node.module]))
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("ldm_edu.")} & set(ORDER)


def length(definition: ast.FunctionDef | ast.ClassDef, source: str) -> int:
    """Its lines of code."""
    lines = set(range(definition.lineno, definition.end_lineno + 1))
    lines -= {number for number, line in enumerate(source.split("\n"), start=1) if not line.strip()}
    for node in ast.walk(definition):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_length_counts_code():
    source = 'class A:\n    """One\n    two."""\n\n    def f(self):\n        """Three."""\n        return 1\n'
    assert length(ast.parse(source).body[0], source) == 3


def test_imports_are_found():
    source = "import ldm_edu.viz\nfrom ldm_edu import blocks\ndef f():\n    from .unet import UNet\n"
    source += "    from . import clip\nfrom torch import weights\n"
    assert imported(source) == {"viz", "blocks", "unet", "clip"}


@every_module
def test_imports_only_modules_before_it(path):
    assert path.stem in ORDER, "a new module: give it its place in ORDER"
    before = set(ORDER[:ORDER.index(path.stem)]) - {"viz"}  # nothing depends on pictures
    assert imported(path.read_text(encoding="utf-8")) - before == set()


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_exercises_depend_on_the_package_alone(path):
    source = path.read_text(encoding="utf-8")
    assert imported(source) <= set(ORDER[:ORDER.index("viz")])
    assert len(source.splitlines()) <= MAX_MODULE and ast.get_docstring(ast.parse(source))


@every_module
def test_fits_a_cell(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_MODULE
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert length(node, source) <= MAX_DEFINITION, node.name


@every_module
def test_is_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in tree.body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if public and not node.name.startswith("draw_"):  # which says what is drawn
            assert ast.get_docstring(node), node.name


def test_functions_and_classes_have_names_of_their_own():
    """The name is the marker for live notebooks and their sync. Constants may share one: `unet.TINY`."""
    first = {}
    for path in MODULES:
        for definition in definitions(path.read_text(encoding="utf-8"), path.stem):
            if not definition.constant and definition.name != "main":
                owner = first.setdefault(definition.name, path.stem)
                assert owner == path.stem, f"{definition.name}: {owner} and {path.stem}"
