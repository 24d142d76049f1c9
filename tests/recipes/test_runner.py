"""Every recipe from its command line to its checkpoint, a few steps long: all in a row, killed, resumed, refused."""
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from ldm_edu import DATA
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.recipes import profiles, runner, summary
from ldm_edu.recipes.__main__ import NAMES, main
from ldm_edu.recipes.profiles import PROFILES, Profile, training_scenes
from ldm_edu.recipes.runner import MADE_FROM, RECIPES, run, run_all
from ldm_edu.recipes.train_few_steps import demonstrate
from ldm_edu.support import logs
from ldm_edu.support.files import read_tensors
from ldm_edu.training import TrainConfig, train

SMALL = Profile(TrainConfig(3, save_every=2), batch=2, scenes=6)
ALL = dict.fromkeys(RECIPES, SMALL)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Everything that `recipes all` makes in three steps a stage."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "table", lambda *_, **__: ["| what it reaches |"])
        patch.setattr(demonstrate, "__defaults__", (8,))    # steps of the teacher
        run_all(ALL, root)
    return root


def weights(folder):
    """Every tensor in the files of a folder."""
    return {f"{path.relative_to(folder)} {name}": tensor for path in sorted(folder.rglob("*.safetensors"))
            for name, tensor in read_tensors(path).items()}


def differing(a, b):
    """The names of what is not the same, bit for bit, in two dictionaries of tensors."""
    assert a.keys() == b.keys() and a
    return {name for name in a if not torch.equal(a[name], b[name])}


def test_all_of_it_killed_in_each_stage_ends_as_unbroken(trained, tmp_path, monkeypatch):
    """The same weights, bit for bit, the same states and logs; moments of channels-last weights included.

    What is finished is not trained again.
    """
    begun = []

    def killed_once(model, loss_fn, config, state, resume):
        begun.append(state.parent.name)
        for progress in train(model, loss_fn, config, state, resume=resume):
            yield progress
            if progress.step == 2 and begun.count(begun[-1]) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(summary, "table", lambda *_, **__: ["| what it reaches |"])
    monkeypatch.setattr(demonstrate, "__defaults__", (8,))
    monkeypatch.setattr(runner, "draw_losses", lambda path: None)    # which the unbroken run draws
    monkeypatch.setattr(runner, "train", killed_once)
    for _ in RECIPES:
        with pytest.raises(KeyboardInterrupt):
            run_all(ALL, tmp_path, resume=True)
    run_all(ALL, tmp_path, resume=True)
    assert begun == [name for name in RECIPES for _ in range(2)]
    assert not differing(weights(trained), weights(tmp_path))
    for name in RECIPES:
        log = (tmp_path / "training" / name / "log.csv").read_text()
        assert [line.split(",")[0] for line in log.split()] == ["step", "1", "2", "3"]
        assert log == (trained / "training" / name / "log.csv").read_text()
        assert (trained / "training" / name / "loss.png").exists()


def test_the_summary_tells_how_each_stage_was_made(trained):
    text = (trained / "training/summary.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines()]
    assert [row[0] for row in rows[2:2 + len(RECIPES)]] == [f"| {name}" for name in RECIPES]
    assert all(row[1:3] == ["6", "3 × 2"] and row[3].endswith("min") for row in rows[2:2 + len(RECIPES)])
    assert "| what it reaches |" in text.splitlines()
    for path in trained.glob("*/model.safetensors"):
        digest = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
        assert f"| `{path.relative_to(trained)}` | `{digest}` |" in text
    assert text.count("`tiny-worlds/vae/diffusion_pytorch_model.safetensors`") == 1
    note = json.loads((trained / "training/ldm/run.json").read_text())
    last = (trained / "training/ldm/log.csv").read_text().split()[-1].split(",")[-1]
    assert note["losses"] == {"loss": float(last)} and note["seconds"] > 0 and "threads" in note["machine"]


def test_the_bar_tells_what_is_left_of_all(monkeypatch, tmp_path):
    """Stages that take twice the minutes planned make those to come twice as long, too."""
    said = []

    def pretend(name, profile, root, resume, device, left_after):
        said.append(left_after(30 * 60, 1.0))
        folder = root / "training" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"seconds": 2 * 60 * profile.minutes, "files": {}}))

    monkeypatch.setattr(runner, "run", pretend)
    monkeypatch.setattr(runner, "write_summary", lambda *_: None)
    run_all({name: replace(SMALL, minutes=minutes) for name, minutes in (("a", 60), ("b", 30), ("c", 120))}, tmp_path)
    assert said == [f"all stages: {hours} h left; " for hours in (3.0, 4.5, 0.5)]


def test_scenes_are_painted_once_for_all_stages_that_need_no_more(monkeypatch):
    painted, render = [], profiles.render
    monkeypatch.setattr(profiles, "_painted", [])
    monkeypatch.setattr(profiles, "render", lambda split, count: painted.append((split, count)) or render(split, count))
    for count in (3, 5, 2, 5):
        found, expected = training_scenes(count), render("train", count)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert painted == [("train", 3), ("train", 5)]


def test_a_note_keeps_both_the_clipped_norm_and_what_a_stage_was_made_from(trained):
    """Once the name of CLIP's folder took the place of TrainConfig's `clip`."""
    settings = json.loads((trained / "training/ldm/run.json").read_text())["settings"]
    assert settings["clip"] == 1.0 and {"made from clip", "made from vae"} < settings.keys()


def test_the_unet_recipe_makes_a_folder_that_opens(trained):
    """All three conditions; in these steps the text transformer has learned, the image transformer is still CLIP's."""
    clip = read_tensors(trained / "clip/model.safetensors")
    for part, unchanged in (("text_encoder", False), ("image_encoder", True)):
        tensors = read_tensors(trained / "tiny-worlds" / part / "model.safetensors")
        assert tensors and all(torch.equal(clip[key], value) for key, value in tensors.items()) == unchanged
    ldm = LatentDiffusion.from_pretrained(trained / "tiny-worlds")
    for pictures in (ldm.text_to_image("a red boat", steps=2), ldm.variations(torch.zeros(1, 3, 64, 64), steps=2),
                     ldm.map_to_image(torch.zeros(1, 64, 64, dtype=torch.long), steps=2)):
        assert pictures.shape == (1, 3, 64, 64) and pictures.isfinite().all()


# --- What is refused -------------------------------------------------------------------------------------------------

def test_a_run_that_is_there_is_not_replaced_and_other_settings_are_not_resumed(trained, tmp_path):
    shutil.copytree(trained / "features", tmp_path / "features")
    shutil.copytree(trained / "training/features", tmp_path / "training/features")
    before = weights(tmp_path)
    with pytest.raises(ValueError, match="features already holds a run; continue it with --resume, or delete it"):
        run("features", SMALL, tmp_path)
    for other, message in ((replace(SMALL, batch=3), "batch was 2 and is now 3"),
                           (replace(SMALL, scenes=7), "scenes was 6 and is now 7"),
                           (replace(SMALL, train=replace(SMALL.train, lr=1.0)), "lr was 0.001 and is now 1.0")):
        with pytest.raises(ValueError, match=f"--resume: .*features was started with other settings: {message}"):
            run("features", other, tmp_path, resume=True)
    with pytest.raises(ValueError, match="device was 'cpu' and is now 'cuda'"):
        run("features", SMALL, tmp_path, resume=True, device=torch.device("cuda"))
    assert not differing(before, weights(tmp_path))
    run("features", SMALL, tmp_path, resume=True)    # nothing is left to do
    assert not differing(before, weights(tmp_path))


def test_what_is_finished_is_not_trained_again_nor_taken_for_another_plan(trained, tmp_path, monkeypatch):
    """A stage that is finished under other settings, or from another autoencoder, is named, not passed over."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(summary, "table", lambda *_, **__: [])
    monkeypatch.setattr(runner, "train", None)
    before = weights(tmp_path)
    run_all(ALL, tmp_path, resume=True)
    with pytest.raises(ValueError, match="oracle was started with other settings: batch was 2"):
        run_all(ALL | {"oracle": replace(SMALL, batch=3)}, tmp_path, resume=True)
    note = tmp_path / "training/ldm/run.json"
    run_of_another = json.loads(note.read_text())
    run_of_another["settings"]["made from vae"] = "0" * 64
    note.write_text(json.dumps(run_of_another))
    with pytest.raises(ValueError, match="ldm was started with other settings: made from vae was '0000"):
        run_all(ALL, tmp_path, resume=True)
    assert not differing(before, weights(tmp_path))


def test_another_autoencoder_is_not_resumed_with(trained, tmp_path):
    for name in ("clip", "tiny-worlds", "training/ldm"):
        shutil.copytree(trained / name, tmp_path / name)
    shutil.copy(DATA / "tiny-worlds/vae/diffusion_pytorch_model.safetensors", tmp_path / "tiny-worlds/vae")
    with pytest.raises(ValueError, match="ldm was started with other settings: made from vae was"):
        run("ldm", SMALL, tmp_path, resume=True)


def test_a_full_disk_is_one_sentence_and_the_last_state_stays(trained, tmp_path, monkeypatch, capsys):
    """The log cannot be written at the last step; the state is whole, and the run ends as an unbroken one."""
    monkeypatch.setitem(PROFILES, "cpu", ALL)
    written = []

    def full(rows, waiting, write=logs._write_rows):
        written.append(len(waiting))
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        write(rows, waiting)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(logs, "_write_rows", full)
        main(["segmenter", "--out", str(tmp_path)])
    assert stop.value.code == 2 and "No space left on device" in capsys.readouterr().err
    assert int(read_tensors(tmp_path / "training/segmenter/state.safetensors")["step"]) == 3
    main(["segmenter", "--out", str(tmp_path), "--resume"])
    assert not differing(weights(trained / "segmenter"), weights(tmp_path / "segmenter"))


@pytest.mark.parametrize("arguments, message", [
    (["gan"], "invalid choice: 'gan' (choose from"),
    (["ldm"], "ldm needs "),    # no CLIP
    (["vae", "--resume"], "features/model.safetensors, which is not there; run the recipe of that name"),
    (["all", "--profile", "gpu"], "--profile gpu needs a CUDA GPU"),
])
def test_wrong_input_is_one_sentence_and_exit_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_recipe_is_named(tmp_path):
    with pytest.raises(ValueError, match="recipe: got 'gan', expected one of oracle, segmenter, features, vae"):
        run("gan", SMALL, tmp_path)


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
    assert set(NAMES) == {"all", *RECIPES, "own"}


@pytest.mark.parametrize("profiles", PROFILES.values(), ids=PROFILES)
def test_profiles_know_every_stage_in_an_order_that_works(profiles):
    order = list(profiles)
    assert order == list(RECIPES)
    for name, needed in MADE_FROM.items():
        stages = [{"unet": "ldm", "text_encoder": "ldm"}.get(part := path.split("/")[-2], part) for path in needed]
        assert all(order.index(stage) < order.index(name) for stage in stages)


def test_options_take_the_place_of_the_profiles(monkeypatch):
    began = []
    monkeypatch.setattr(runner, "run", lambda *arguments: began.append(arguments))
    monkeypatch.setattr(runner, "run_all", lambda *arguments: began.append(arguments))
    main(["ldm", "--steps", "3", "--out", "somewhere"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    main(["all", "--profile", "gpu", "--resume"])
    shipped = PROFILES["cpu"]["ldm"]
    assert began[0][1] == replace(shipped, train=replace(shipped.train, steps=3))
    assert began[0][3] is False and str(began[0][2]) == "somewhere"
    assert began[1][0] == PROFILES["gpu"] and str(began[1][1]) == "out/train" and began[1][2] is True
    assert [began[0][4].type, began[1][3].type] == ["cpu", "cuda"]


# --- What a killed run leaves behind ----------------------------------------------------------------------------------

def test_all_refuses_before_the_first_step_if_a_later_stage_is_there(trained, tmp_path):
    shutil.copytree(trained / "training/clip", tmp_path / "training/clip")
    with pytest.raises(ValueError, match="training already holds a run; continue it with --resume, or delete it"):
        run_all(ALL, tmp_path)
    assert [path.name for path in (tmp_path / "training").iterdir()] == ["clip"]


def test_a_model_killed_between_two_renames_is_put_back(trained, tmp_path, monkeypatch):
    """`swap_in` had moved the old folder away, and the new one not yet to its place."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tiny-worlds").rename(tmp_path / "tiny-worlds.old")
    monkeypatch.setattr(runner, "train", None)
    run("ldm", SMALL, tmp_path, resume=True)
    assert not differing(weights(trained), weights(tmp_path))


def test_a_log_whose_last_row_was_cut_is_read(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("step,lr,l1,kl\n1,0.1,3,4\n2,0.1,1,2\n3,0.1,")
    assert logs.last_losses(log) == {"l1": 1, "kl": 2}
    logs.draw_losses(log)
