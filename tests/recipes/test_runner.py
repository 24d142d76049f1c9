"""Every recipe from its command line to its checkpoint, a few steps long: killed, resumed, warm."""
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from ldm_edu import DATA
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.recipes import runner
from ldm_edu.recipes.__main__ import NAMES, main
from ldm_edu.recipes.pixel_unet import load_pixel_model
from ldm_edu.recipes.profile import Profile
from ldm_edu.recipes.runner import PROFILES, RECIPES, run, state_folder
from ldm_edu.support.files import read_tensors
from ldm_edu.training import TrainConfig, train

SMALL = Profile(TrainConfig(3, save_every=2), batch=2, scenes=6)
STILL = replace(SMALL, train=TrainConfig(1, lr=1e-12, seed=1))    # a step that changes nothing
BEFORE = {"decoder": "vae", "ldm": "decoder"}                     # whose checkpoint a recipe starts from


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Every recipe's checkpoint after three steps, each in a folder of its name."""
    root = tmp_path_factory.mktemp("trained")
    for name in RECIPES:
        prepare(name, root, root)
        run(name, SMALL, root / name)
    return root


def prepare(name, source, target):
    """Copy what a recipe starts from."""
    if name in BEFORE:
        shutil.copytree(source / BEFORE[name], target / name)
    if name == "ldm" and source != target:
        shutil.copytree(source / "clip", target / "clip")


def weights(folder):
    """Every tensor in the files of a folder."""
    return {f"{path.relative_to(folder)} {name}": tensor for path in sorted(folder.rglob("*.safetensors"))
            for name, tensor in read_tensors(path).items()}


def differing(a, b):
    """The names of what is not the same, bit for bit, in two dictionaries of tensors."""
    assert a.keys() == b.keys() and a
    return {name for name in a if not torch.equal(a[name], b[name])}


def killed_after_two(*arguments):
    for progress in train(*arguments):
        yield progress
        if progress.step == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", RECIPES)
def test_a_killed_and_resumed_run_ends_as_an_unbroken_one(name, trained, tmp_path, monkeypatch):
    """The same weights, bit for bit, the same state and the same log; moments of channels-last weights included."""
    prepare(name, trained, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runner, "train", killed_after_two)
        run(name, SMALL, tmp_path / name)
    run(name, SMALL, tmp_path / name, resume=True)
    assert not differing(weights(trained / name), weights(tmp_path / name))
    unbroken, resumed = (state_folder(folder / name, name) for folder in (trained, tmp_path))
    assert not differing(weights(unbroken), weights(resumed))
    log = (resumed / "log.csv").read_text()
    assert [line.split(",")[0] for line in log.split()] == ["step", "1", "2", "3"]
    assert log == (unbroken / "log.csv").read_text() and (resumed / "loss.png").exists()


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "decoder"])
def test_a_warm_start_begins_where_the_saved_model_ended(name, trained, tmp_path):
    """A step of another seed that changes nothing gives back what it started from; a cold start would not."""
    for part in {name, "clip"}:
        shutil.copytree(trained / part, tmp_path / part)
    run(name, STILL, tmp_path / name, warm=True)
    assert not differing(weights(trained / name), weights(tmp_path / name))
    if name == "vae":    # held to its latents, also when resumed
        log = state_folder(tmp_path / name, name) / "log.csv"
        run(name, replace(STILL, train=replace(STILL.train, steps=2)), tmp_path / name, resume=True)
        assert [line.split(",")[0] for line in log.read_text().split()] == ["step", "1", "2"]
        assert log.read_text().split()[0].endswith(",anchor")
        assert "anchor" not in (state_folder(trained / name, name) / "log.csv").read_text()


def test_a_finished_run_can_be_saved_again(trained, tmp_path):
    shutil.copytree(state_folder(trained / "vae", "vae"), state_folder(tmp_path / "vae", "vae"))
    run("vae", SMALL, tmp_path / "vae", resume=True)
    assert not differing(weights(trained / "vae"), weights(tmp_path / "vae"))


def test_the_decoder_recipe_leaves_the_latents_alone(trained):
    changed = differing(weights(trained / "vae"), weights(trained / "decoder"))
    assert {name.split()[1].split(".")[0] for name in changed} == {"decoder", "post_quant_conv"}


def test_the_unet_recipe_makes_a_folder_that_opens(trained):
    """All three conditions; in these steps the text transformer has learned, the image transformer is still CLIP's."""
    clip = read_tensors(trained / "clip/model.safetensors")
    for part, unchanged in (("text_encoder", False), ("image_encoder", True)):
        tensors = read_tensors(trained / "ldm" / part / "model.safetensors")
        assert tensors and all(torch.equal(clip[key], value) for key, value in tensors.items()) == unchanged
    ldm = LatentDiffusion.from_pretrained(trained / "ldm")
    for pictures in (ldm.text_to_image("a red boat", steps=2), ldm.variations(torch.zeros(1, 3, 64, 64), steps=2),
                     ldm.map_to_image(torch.zeros(1, 64, 64, dtype=torch.long), steps=2)):
        assert pictures.shape == (1, 3, 64, 64) and pictures.isfinite().all()


# --- The command line -----------------------------------------------------------------------------------------------

def test_help_answers_without_torch():
    code = """import sys
from ldm_edu.recipes.__main__ import main
for arguments in (["--help"], ["ldm", "--help"], ["own", "--help"]):
    try:
        main(arguments)
    except SystemExit as stop:
        assert stop.code == 0
assert "torch" not in sys.modules"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f"  {name} " in found for name in RECIPES) and "--first-steps" in found
    assert set(NAMES) == {*RECIPES, "own"} and PROFILES.keys() == RECIPES.keys()


def test_options_take_the_place_of_the_profiles(monkeypatch):
    began = []
    monkeypatch.setattr(runner, "run", lambda *arguments: began.append(arguments))
    main(["ldm", "--steps", "3", "--precision", "bfloat16", "--out", "somewhere"])
    main(["ldm", "--profile", "gpu"])
    main(["oracle", "--warm"])
    shipped = PROFILES["ldm"]
    assert began[0][1] == replace(shipped["cpu"], train=replace(shipped["cpu"].train, steps=3, precision="bfloat16"))
    assert began[1] == ("ldm", shipped["gpu"], DATA / "tiny-worlds", False, False)
    assert began[2] == ("oracle", PROFILES["oracle"]["cpu"], DATA / "oracle", False, True)


def test_a_command_trains(tmp_path):
    main(["pixels", "--steps", "2", "--out", str(tmp_path / "pixels")])
    assert load_pixel_model(tmp_path / "pixels/model.safetensors")
    assert (tmp_path / "pixels/model.safetensors").stat().st_size < 10**6


@pytest.mark.parametrize("arguments, message", [
    (["gan"], "invalid choice: 'gan' (choose from"),
    (["ldm", "--resume"], "--resume: there is no"),
    (["ldm", "--precision", "float8"], "precision: got 'float8', expected one of float32, medium, bfloat16"),
    (["decoder"], "config.json"),    # there is no autoencoder to go on from
    (["oracle", "--warm"], "model.safetensors"),
])
def test_wrong_input_is_one_sentence_and_exit_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(PROFILES, "oracle", {"cpu": SMALL})
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_an_unknown_recipe_is_named(tmp_path):
    with pytest.raises(ValueError, match="recipe: got 'gan', expected one of oracle, segmenter, features, vae"):
        run("gan", SMALL, tmp_path)
