"""The notebook contract: every notebook is stored executed and clean, and shows the package as it is."""
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ldm_edu.course.refresh import KERNEL, WIDGET
from ldm_edu.course.refresh import main as refresh
from ldm_edu.course.sync import ROOT, definitions, package, save, shown, sync

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TAGS = {"nbval-ignore-output", "exercise", "check", "solution"}
MAX_BYTES, MAX_WORDS, MAX_IGNORED = 2 ** 20, 2500, 0.4
CELLS = range(50, 71)  # of a chapter; the tour may be shorter

# Where each public class and function is shown; a new one has to be given its place, here or below.
SHOWN_IN = {
    "00": "draw_mushroom",
    "01": "Schedule linear_schedule scaled_linear_schedule cosine_schedule timesteps",
    "02": """Step ddpm ddim timestep_embedding ResBlock Downsample Upsample SmallUNet
             TrainConfig learning_rate ema_update train l_simple little_scene little_world pixel_recipe""",
    "03": """AutoencoderConfig Bottleneck PixelAttention Encoder Decoder Autoencoder VectorQuantizer perplexity
             FeatureNet LPIPS layer_distance unit_features PatchDiscriminator hinge_loss adversarial_loss
             adaptive_weight LossWeights FirstStage LeanAutoencoder spectrum sharpness psnr""",
    "04": """build_tokenizer tokenize TextConfig ImageConfig QuickGELU ClipBlock TextTransformer ImageTransformer CLIP
             contrastive_loss ClipLearner learn_pairs telling embed recall questions zero_shot sibling_captions
             told_apart""",
    "05": """zero_init Attention FeedForward TransformerBlock SpatialTransformer
             UNetConfig Level DownBlock MidBlock UpBlock UNet
             attention_weights Recorder word_positions word_map map_overlap""",
    "06": "TextEncoder MapEncoder guided SecondStage latent_loss emphasis stratified facts score mean_iou",
    "07": "LatentDiffusion visited alpha_bar_at first_x euler dpm_solver",
    "08": "first_step image_to_image renoised inpaint ddim_invert",
    "09": """rename Layout config_to_json config_from_json load_module schedule_from_config
             LoRA bare add_lora merge_lora learn_lora""",
    "10": """PrecisionRecall frechet_distance precision_recall coverage radii discriminator_loss generator_loss
             gradient_penalty GanConfig train_gan draw_grid GridScore judge_grid perceptron PlaneMaker PlaneJudge
             PlaneDenoiser wavy_points LittleMaker LittleJudge""",
}
NOT_SHOWN = {
    "they paint the world, and the tour shows what they make and one of them": "painting landscape scenes worlds",
    "they are the notebooks' tools": "viz live claims map_editor doctor checkup faults",
    "a run of hours is a command": """recipes FeatureTeacher colours_of disturb learn_features
        vae decoder cached_latents
        importance_of Profile pick_batch pick_crowded arithmetic learn_clip captioned_batch logit_normal
        learn_ldm learn_oracle learn_segmenter
        soften""",
    "they gather pairs to train or to judge with": "pairs_of sibling_pairs",
    "they are commands": "bench own_data",
    "they open, scale and refuse pictures": "check_pixels pictures",
    "VGG16 is loaded, and known elsewhere": "VGGFeatures",
    "they repeat one run many times": "sampler_study strength_study random_crops learn rebuild measure "
                                      "attributes_found load_study",
    "the judge is used, and taught by what it finds": "Seen Reading labels Oracle reading Score generate captions_of "
                                                      "everything surplus judge_autoencoder evaluate Segmenter",
    "they ask a net, say how far a run is, repeat runs of minutes": "features feature_net GanProgress gan_study",
    "they serve several processes, which no notebook has": "processes average_gradients",
    "they keep files and logs": """save_tokenizer save_module load_unet load_autoencoder load_text read_tensors
        write_tensors replacing write_table read_table schedule_to_config Progress save_state load_state load_ema
        logged draw_losses
        save_weights load_weights load_pixel_model load_clip save_clip load_image ClipLayout refuse read_json write_json
        laid_out_as load_parts save_parts find_folder swap_in only_one check_request last_x
        shapes_of stream_tensors weights_file sampler_from_config free_memory save_lora load_lora remove_lora""",
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


def widget_faults(notebook) -> list[str]:
    """What is missing of something to play with and, for previews without a kernel, the same standing still."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    explored = [number for number, cell in enumerate(code) if re.search(r"\bexplore\(", cell.source)]
    still = [number for number, cell in enumerate(code)
             if any(mime.startswith("image/") for output in cell.outputs for mime in output.get("data", {}))]
    return ([] if explored else ["no widget"]) + [
        f"code cell {number}: no picture after the widget" for number in explored if number + 1 not in still]


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
    count = len(nbformat.read(path, as_version=4).cells)
    assert count in CELLS or path.stem == "00_tour" and count < CELLS.stop


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


def misplaced(known: dict, shown_in: dict[str, str], not_shown: dict[str, str]) -> list[str]:
    """Public classes and functions that have no place or two, and places without one; a module may have a place."""
    modules = {definition.module for definition in known.values()}
    left_out = " ".join(not_shown.values()).split()
    placed = " ".join(shown_in.values()).split() + [name for name in left_out if name not in modules]
    free = {name for name, definition in known.items() if definition.constant or definition.module in left_out}
    return [f"{name}: {what}" for what, names in {
        "give it its place": known.keys() - free - set(placed),
        "not in the package": set(placed) - known.keys(),
        "has two places": {name for name in placed if placed.count(name) > 1}}.items() for name in sorted(names)]


def misshown(notebook, known: dict, expected: str) -> list[str]:
    """Classes and functions that the notebook shows and should not, or the reverse."""
    found = {definition.name for _, definition in shown(notebook, known) if not definition.constant}
    return [f"{name} should not be shown here" for name in sorted(found - set(expected.split()))] + [
        f"{name} should be shown here" for name in sorted(set(expected.split()) - found)]


def test_every_public_definition_has_its_chapter():
    assert misplaced(package(), SHOWN_IN, NOT_SHOWN) == []


@every_notebook
def test_shows_what_belongs_to_it(path):
    assert misshown(nbformat.read(path, as_version=4), package(), SHOWN_IN.get(path.stem[:2], "")) == []


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


@pytest.mark.parametrize("source, mime, wrong", [
    ("viz.explore(draw)", "image/png", []),
    ("viz.explore(draw)", "text/html", ["code cell 1: no picture after the widget"]),
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


@pytest.mark.parametrize("shown_in, not_shown, wrong", [
    ({"01": "halve", "02": "Model"}, {}, []),
    ({"01": "halve"}, {"it is small": "Model"}, []),
    ({"02": "Model"}, {"a tool": "one"}, []),
    ({"01": "halve"}, {}, ["Model: give it its place"]),
    ({"01": "halve double", "02": "Model"}, {}, ["double: not in the package"]),
    ({"01": "halve", "02": "Model halve"}, {}, ["halve: has two places"]),
    ({"01": "halve Model"}, {"it is small": "Model"}, ["Model: has two places"]),
])
def test_a_definition_without_its_place_is_found(known, shown_in, not_shown, wrong):
    assert misplaced(known, shown_in, not_shown) == wrong


@pytest.mark.parametrize("expected, wrong", [
    ("halve", []), ("", ["halve should not be shown here"]), ("halve Model", ["Model should be shown here"])])
def test_a_definition_in_the_wrong_chapter_is_found(known, expected, wrong):
    cells = [new_code_cell(known[name].source) for name in ("RATE", "halve")] + [new_code_cell("Model = 3")]
    assert misshown(new_notebook(cells=cells), known, expected) == wrong


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
