"""A user's folder through autoencoder, text transformer and U-Net; and what is refused before any training."""
import csv
import os
import subprocess
import sys
from functools import partialmethod

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_edu.course.viz import to_pil
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.recipes import own_data, runner
from ldm_edu.recipes.__main__ import main
from ldm_edu.recipes.own_data import text_encoder_for, train_own
from ldm_edu.tiny_worlds.datasets import CaptionedImages, Example, TinyWorlds, open_pictures, read_folder, read_pictures
from ldm_edu.tokenizer import tokenize
from ldm_edu.training import TrainConfig


def folder_of(path, pictures: dict[str, tuple]):
    """A captioned folder of {file name: (Pillow image or bytes, caption)}."""
    path.mkdir()
    with open(path / "metadata.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "text"])
        for name, (image, text) in pictures.items():
            (path / name).write_bytes(image) if isinstance(image, bytes) else image.save(path / name)
            rows.writerow([name, text])
    return path


def worlds(count: int, size=(64, 64)) -> dict[str, tuple]:
    return {f"{i}.png": (to_pil(example.image), example.text)
            for i, example in enumerate(TinyWorlds("validation", count, size)[i] for i in range(count))}


@pytest.fixture
def undrawn(monkeypatch):
    """Training draws no pictures of how far it is, which takes longer than the few steps of a test."""
    monkeypatch.setattr(own_data, "fit", lambda *arguments: runner.fit(*arguments[:-1]))


def test_a_folder_becomes_a_model_and_a_killed_run_goes_on(tmp_path, capsys, monkeypatch):
    """Mixed sizes, a word that Tiny Worlds has not. Killed in the U-Net's training, resumed: the same weights.

    Pictures are drawn after the first step and the last, and in between if their time has come. They change nothing in
    the weights: the killed run draws none.
    """
    pictures = worlds(9) | {"wide.jpg": (Image.new("RGB", (300, 100), "orange"), "a zebra, at noon")}
    folder = folder_of(tmp_path / "mine", pictures)
    monkeypatch.setattr(LatentDiffusion, "text_to_image", partialmethod(LatentDiffusion.text_to_image, steps=4))
    main(["own", str(folder), "--out", str(tmp_path / "whole"), "--steps", "3", "--first-steps", "2", "--batch", "4"])
    assert "the doctor's findings on 10 of the pictures" in capsys.readouterr().out
    for name in ("reconstructions", "samples"):
        assert Image.open(tmp_path / f"whole/training/{name}.png").height == 330
    train, titles = runner.train, []

    def killed(model, loss_fn, config, state, resume):
        for progress in train(model, loss_fn, config, state, resume):
            yield progress
            if progress.step == 2 and state.parent.name == "unet":
                raise KeyboardInterrupt

    def train_again(resume):
        with monkeypatch.context() as patch:
            patch.setattr(LatentDiffusion, "text_to_image", lambda self, prompts: None)
            train_own(open_pictures(folder, 64), tmp_path / "killed", 64, 3, 2, 4, resume)

    monkeypatch.setattr(own_data, "TrainConfig", lambda steps, **rest: TrainConfig(steps, **rest | {"save_every": 1}))
    monkeypatch.setattr(own_data, "draw_pairs", lambda path, title, *_: titles.append((path.stem, title.split(":")[0])))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runner, "train", killed)
        train_again(resume=False)
    train_again(resume=True)
    assert titles == [("reconstructions", f"the autoencoder after {step} of 2 steps") for step in (1, 2)] + [
        ("samples", f"the model after {step} of 3 steps") for step in (1, 3)]
    whole, resumed = (LatentDiffusion.from_pretrained(tmp_path / name) for name in ("whole", "killed"))
    for part in ("unet", "autoencoder", "text"):
        for a, b in zip(getattr(whole, part).state_dict().values(), getattr(resumed, part).state_dict().values()):
            assert torch.equal(a, b)
    assert whole.text_to_image("a zebra, at noon", steps=2).shape == (1, 3, 64, 64)
    assert sum(whole.text.tokenizer.encode("zebra").attention_mask) == 3    # start, one token, end


def test_pairs_are_drawn_one_below_the_other(tmp_path):
    """A green picture over a red one, a blue over a white one; where they stand is found by colour."""
    def flat(*colour):
        return torch.tensor(colour).float()[:, None, None].expand(3, 64, 64)

    examples = [Example(flat(-1, 1, -1), "green", None), Example(flat(-1, -1, 1), "blue", None)]
    own_data.draw_pairs(tmp_path / "pairs.png", "title", examples, torch.stack([flat(5, -1, -1), flat(1, 1, 1)]))
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "pairs.png").convert("RGB")))
    (green_y, green_x), (blue_y, blue_x), (red_y, red_x) = (
        (pixels == torch.tensor(colour)).all(-1).nonzero().float().mean(0).tolist()
        for colour in ((0, 255, 0), (0, 0, 255), (255, 0, 0)))
    assert abs(green_y - blue_y) < 1 and green_x < blue_x and abs(green_x - red_x) < 1 and green_y < red_y


def test_the_bar_tells_what_is_left_of_both_stages(tmp_path, monkeypatch):
    """60 s of the autoencoder and 120 steps of the U-Net at its pace, a step of the autoencoder taking 2 s.

    And the pictures for the doctor, which wants several texts, are not all of one class.
    """
    def fit(model, loss_fn, config, folder, left_after, look):
        said.append(left_after(60, 2))
        return model.eval()

    said = []
    monkeypatch.setattr(own_data, "fit", fit)
    monkeypatch.setattr(own_data, "UNET_PACE", 0.5)
    pictures = [(Image.new("RGB", (9, 9)), text) for text in ["a cat"] * 90 + ["a dog"] * 30]
    _, examples = train_own(CaptionedImages(pictures), tmp_path, steps=120)
    assert [example.text for example in examples].count("a dog") == 16
    assert said == ["all: 3 min left; ", "all: 1 min left; "]


def test_what_is_transparent_in_a_folder_is_white(tmp_path):
    pictures = {f"{i}.png": (Image.new("RGBA", (64, 64), (255, 0, 0, 0)), f"a {i}") for i in range(8)}
    assert (read_pictures(CaptionedImages(read_folder(folder_of(tmp_path / "mine", pictures))))[0] == 255).all()


def test_other_sizes(tmp_path, undrawn):
    scenes = TinyWorlds("validation", 8, (96, 96))
    dataset = CaptionedImages([(to_pil(example.image), example.text) for example in scenes], (96, 96))
    ldm, examples = train_own(dataset, tmp_path, size=96, steps=1, first_steps=1, batch=2, cold=True)
    assert ldm.text_to_image("a house", steps=1).shape == (1, 3, 96, 96) and len(examples) == 8
    assert LatentDiffusion.from_pretrained(tmp_path).unet.config.sample_size == 12
    std = torch.cat([ldm.autoencoder.to_latent(e.image[None]) for e in examples]).std().item()
    assert std == pytest.approx(1, abs=0.1)


def test_every_word_is_one_token_and_the_longest_caption_fits():
    text = text_encoder_for(["A crème brûlée, 12 pieces!", "don't", "x " * 30])
    assert sum(text.tokenizer.encode("brûlée").attention_mask) == 3
    assert tokenize(text.tokenizer, ["x " * 30]).shape == (1, 32)
    assert text_encoder_for(["a", "b"]).transformer.config.length == 16
    with pytest.raises(ValueError, match="text: got a caption of 102 tokens, expected at most 77"):
        text_encoder_for(["x " * 100])


@pytest.mark.parametrize("pictures, message", [
    (lambda: {"one.png": (Image.new("RGB", (9, 9)), "a cat")}, "got 1 with 1 different captions, expected at least 8"),
    (lambda: {f"{i}.png": (Image.new("RGB", (9, 9)), "a cat") for i in range(9)}, "got 9 with 1 different captions"),
    (lambda: worlds(8) | {"bad.png": (b"no picture", "a"), "worse.jpg": (b"", "b")},
     "2 of 10 pictures cannot be read: .*bad.png.*worse.jpg"),
], ids=["one picture", "one caption", "unreadable"])
def test_bad_folders_are_named_before_any_training(tmp_path, pictures, message):
    folder = folder_of(tmp_path / "mine", pictures())
    with pytest.raises(ValueError, match=message):
        train_own(CaptionedImages(read_folder(folder)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_changed_run_is_not_resumed(tmp_path, undrawn):
    """Other captions would give rows of the embedding to other words; another size would save the old model as new."""
    def run(words: str, size: int = 64, batch: int = 2, resume: bool = True):
        pairs = [(Image.new("RGB", (80, 80), (20 * i, 90, 90)), f"{word} {i}") for i, word in enumerate(words.split())]
        return train_own(CaptionedImages(pairs, (size, size)), tmp_path, size, 1, 1, batch, resume)

    words = "cat dog hen cow pig ape bee ant"
    run(words, resume=False)
    state = tmp_path / "training/unet/state.safetensors"
    before = state.read_bytes()
    run(words)    # nothing is left to do
    for change in (dict(words=words.replace("cat", "yak")), dict(words=words, size=96), dict(words=words, batch=4)):
        with pytest.raises(ValueError, match="--resume: .* started with other settings: .* delete that folder"):
            run(**change)
    assert state.read_bytes() == before


def test_two_runs_do_not_share_a_folder(tmp_path, undrawn):
    pictures = [(Image.new("RGB", (64, 64), (20 * i, 90, 90)), f"a {i}") for i in range(8)]
    (tmp_path / "training").mkdir()
    (tmp_path / "training/lock").write_text(str(os.getppid()))    # alive
    with pytest.raises(ValueError, match=f"training is in use by process {os.getppid()}; wait until it ends"):
        train_own(CaptionedImages(pictures), tmp_path, 64, 1, 1, 2)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / "training/lock").write_text(str(gone.pid))    # of a killed run
    train_own(CaptionedImages(pictures), tmp_path, 64, 1, 1, 2)
    assert not (tmp_path / "training/lock").exists()


@pytest.mark.parametrize("wrong, message", [
    (dict(size=0), "size: got 0, expected a multiple of 8"), (dict(size=60), "size: got 60, expected a multiple of 8"),
    (dict(size=8), "size: got 8, expected a multiple of 8"), (dict(batch=1), "batch: got 1, expected at least 2")])
def test_bad_sizes_are_named(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        train_own(CaptionedImages([(Image.new("RGB", (9, 9)), "a")]), tmp_path, **wrong)


@pytest.mark.parametrize("arguments, message", [
    (["nowhere"], "nowhere: expected a folder with metadata.csv"),
    ([".", "--torchvision", "CIFAR11"], "--torchvision: got CIFAR11"),
    ([".", "--torchvision", "ImageFolder"], "--torchvision: got ImageFolder, expected a set that downloads itself"),
    ([".", "--torchvision", "FakeData"], "--torchvision: got FakeData, expected a set that downloads itself"),
    ([".", "--torchvision", "wrap_dataset_for_transforms_v2"], "expected a set that downloads itself, such as CIFAR10"),
])
def test_the_command_says_what_is_wrong_in_a_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["own", *arguments, "--out", "out"])
    assert stop.value.code == 2 and message in capsys.readouterr().err
