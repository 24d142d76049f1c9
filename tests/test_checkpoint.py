"""What is shipped: whole, small, described by its card, and as good as the card says, on a sample."""
import hashlib
import re

import pytest
import torch

from ldm_edu import DATA, conditioning
from ldm_edu.metrics import evaluation as metrics
from ldm_edu.metrics.__main__ import main
from ldm_edu.metrics.caption_accuracy import score, surplus
from ldm_edu.metrics.distances import psnr
from ldm_edu.metrics.evaluation import captions_of, evaluate, evaluate_autoencoder, generate
from ldm_edu.metrics.oracle import Oracle
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.tiny_worlds.datasets import render, to_float
from ldm_edu.weights import load_autoencoder

CHECKPOINT = DATA / "tiny-worlds"
MB = 10**6


def shipped():
    """The files of data/ that travel with the repository; data/training is what trainings leave behind."""
    return [path for path in DATA.rglob("*") if path.is_file() and DATA / "training" not in path.parents]


def card_table() -> dict[str, dict[str, float]]:
    """Rows of the card's table of figures by name, for each sampler, without spreads; percentages as shares."""
    card = re.sub(r" ± [\d.]+", "", (CHECKPOINT / "README.md").read_text(encoding="utf-8"))
    samplers = re.search(r"^\| 512 prompts.*?\| (.*) \|$", card, re.MULTILINE)[1].split(" | ")
    rows = re.findall(r"^\| ([a-z1].*?) \| ([\d.]+(?: ?%| s)?(?: \| [\d.]+(?: ?%| s)?)*) \|$", card, re.MULTILINE)
    table = {sampler: {} for sampler in samplers}
    for name, cells in rows:
        for sampler, cell in zip(samplers, cells.split(" | "), strict=True):
            table[sampler][name] = float(cell.rstrip("% s")) / (100 if cell.endswith("%") else 1)
    return table


def test_sizes():
    files = shipped()
    assert max(path.stat().st_size for path in files) < 15 * MB
    assert sum(path.stat().st_size for path in files) < 60 * MB


def test_the_card_lists_every_weight_file_with_its_checksum():
    card = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"`([\w/.-]+\.safetensors)` *\| *`([0-9a-f]{64})`", card))
    files = {str(path.relative_to(DATA)): path for path in DATA.rglob("*.safetensors")
             if DATA / "training" not in path.parents}
    assert listed.keys() == files.keys()
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[name], name


@pytest.mark.parametrize("sampler, count", [
    ("ddim", 16), pytest.param("ddim", 128, marks=pytest.mark.slow), pytest.param("ddpm", 128, marks=pytest.mark.slow)])
def test_the_card_holds_on_a_sample(sampler, count):
    """Some prompts, another seed: within sampling error of the card's figures (three standard deviations)."""
    card = card_table()[sampler]
    ldm, oracle = LatentDiffusion.from_pretrained(CHECKPOINT), Oracle.load()
    captions = captions_of("validation", count)
    seen = oracle.read(generate(ldm, [c.text for c in captions], seed=7, sampler=sampler))
    result, more = score(captions, seen), surplus(captions, seen)
    expected = card["validation: all right"]
    error = 3 * (max(expected * (1 - expected), 0.02) / count) ** 0.5
    print(f"{sampler}, {count} prompts, seed 7: caption accuracy {result.accuracy:.1%}, "
          f"all right {result.all_right:.1%}, more things than named {more:.1%}")
    assert abs(result.all_right - expected) < error
    assert abs(result.accuracy - card["validation: caption accuracy"]) < 0.08
    named = card["validation: more things than named"]
    assert abs(more - named) < 3 * (named * (1 - named) / count) ** 0.5 + 0.5 / count


def test_evaluate_sees_a_broken_model(monkeypatch):
    """The measuring tool itself: with the words of the prompts scrambled, the same model must score near chance."""
    ldm, oracle = LatentDiffusion.from_pretrained(CHECKPOINT), Oracle.load()
    monkeypatch.setattr(conditioning, "tokenize", lambda tokenizer, prompts: torch.full((len(prompts), 32), 5))
    rendered = []
    monkeypatch.setattr(metrics, "render", lambda *split: rendered.append(split) or render(*split))
    table = evaluate_autoencoder(ldm, oracle, 64) | evaluate(ldm, oracle, count=16, steps=4)
    assert table["validation: caption accuracy"] < 0.4 and table["validation: all right"] < 0.2
    assert table["reconstructions: caption accuracy"] > 0.6
    assert rendered == [("validation", 64), ("validation", 16)]
    assert table["renders: more things than named"] < 0.1    # these see nothing of the prompts
    assert all(table[f"{split}: more things than named"] > 0.01 for split in ("validation", "composition"))


def test_the_command_prints_a_column_for_each_sampler(capsys, monkeypatch):
    rendered = []
    monkeypatch.setattr(metrics, "render", lambda *split: rendered.append(split) or render(*split))
    main([str(CHECKPOINT), "--count", "4", "--steps", "4", "--samplers", "ddim", "dpm_solver"])
    head, line, *rows = [row.strip("| ").split(" | ") for row in capsys.readouterr().out.splitlines()]
    assert head[0].startswith("4 prompts a split, 4 steps, guidance 4 (2 for pictures and maps), seed 0; 16 renders")
    assert rendered == [("validation", 16), ("validation", 4), ("validation", 4)]
    assert head[1:] == ["ddim", "dpm_solver"] and line == ["---|---|---"] and {len(row) for row in rows} == {3}
    cells = {name: values for name, *values in rows}
    assert cells.keys() - {rows[-1][0]} <= card_table()["ddim"].keys() | {name for name in cells if "(" in name}
    for name, (left, right) in cells.items():
        if name.startswith(("autoencoder", "renders", "reconstructions")) or name.endswith("renders"):
            assert left == right, name    # no sampler in it
    assert cells["map as condition: mean IoU, pictures"][0] != cells["map as condition: mean IoU, pictures"][1]
    assert [row for row in rows if row[0].startswith("16 pictures")] == rows[-1:]


def test_of_several_seeds_the_table_has_mean_and_spread(monkeypatch):
    """The figures of three seeds by hand: 90, 92 and 97 % are 93 ± 3.6; what is the same for all has no spread."""
    by_seed = {0: 0.90, 1: 0.92, 2: 0.97}
    monkeypatch.setattr(metrics, "evaluate_autoencoder", lambda *_: {"autoencoder: PSNR, dB": 31.94})
    monkeypatch.setattr(metrics, "evaluate", lambda *arguments: {"right": by_seed[arguments[5]]})
    lines = metrics.table(CHECKPOINT, count=1, steps=1, seeds=(0, 1, 2), samplers=["ddim"])
    assert lines[2:4] == ["| autoencoder: PSNR, dB | 31.9 |", "| right | 93.0 ± 3.6% |"] and "seed 0, 1, 2;" in lines[0]


@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_other_sizes(size):
    ldm = LatentDiffusion.from_pretrained(CHECKPOINT)
    picture = ldm.text_to_image("two red boats, at sunset, on the sea", steps=4, size=size)
    assert picture.shape == (1, 3, *size) and picture.isfinite().all()


def test_one_seed_one_picture():
    ldm = LatentDiffusion.from_pretrained(CHECKPOINT)
    a, b, c = (ldm.text_to_image("a red boat", steps=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.allclose(a, c, atol=0.1)


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (128, 128)])
def test_the_autoencoder_takes_other_sizes(size):
    """Scenes painted at another size, which it was not trained on: still recognisably the same pictures."""
    autoencoder = load_autoencoder(CHECKPOINT / "vae").eval()
    images = to_float(render("validation", 16, size=size)[0])
    with torch.no_grad():
        latents = autoencoder.to_latent(images)
        decoded = autoencoder.from_latent(latents)
    assert latents.shape == (16, 4, size[0] // 8, size[1] // 8) and decoded.shape == images.shape
    quality = psnr(decoded.clamp(-1, 1), images).mean().item()
    blank = psnr(images.mean((2, 3), keepdim=True).expand_as(images), images).mean().item()
    print(f"{size}: {quality:.1f} dB, one colour all over {blank:.1f} dB")
    assert quality > blank + 5
