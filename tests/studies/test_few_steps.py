"""The study of few steps: from its command line to its table and picture, its measures against loops."""
from dataclasses import replace

import pytest
import torch
from PIL import Image

from ldm_edu import DATA
from ldm_edu.metrics.caption_accuracy import score
from ldm_edu.metrics.distances import features, frechet_distance
from ldm_edu.metrics.evaluation import captions_of
from ldm_edu.metrics.oracle import Oracle
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.recipes.profiles import PROFILES
from ldm_edu.studies import few_steps
from ldm_edu.studies.__main__ import main
from ldm_edu.studies.few_steps import RUNS, STUDENTS, Fewer, folder_of, measure, open_student, spread
from ldm_edu.support.tables import read_table

SOME = ("4 steps", "1 step")


@pytest.fixture(scope="module")
def ldm() -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(DATA / "tiny-worlds")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Options of a study of a few pictures; the root has no LoRA of its own."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root/tiny-worlds").symlink_to(DATA / "tiny-worlds")
    monkeypatch.setitem(PROFILES["cpu"], "few_steps", replace(PROFILES["cpu"]["few_steps"], batch=2))
    monkeypatch.setattr(few_steps, "ASKED", 2)
    monkeypatch.setattr(few_steps, "SEEDS", 2)
    monkeypatch.setattr(few_steps, "COLUMNS", 2)
    monkeypatch.setattr(few_steps, "ROWS", [("teacher", 1, 4.0), ("1 step", 1, 1.0)])
    monkeypatch.setattr(few_steps, "RUNS", [("teacher", 2, 4.0), *[(name, 1, 1.0) for name in SOME]])
    monkeypatch.setattr(few_steps.demonstrate, "__defaults__", (8,))
    return ["few_steps", "--root", tmp_path / "root", "--work", tmp_path / "work", "--out", tmp_path / "out",
            "--scenes", 4, "--steps", 2, "--count", 6]


def start(options: list, *students: str, more: tuple[str, ...] = ()) -> None:
    main([*map(str, options), "--students", *students, *more])


def test_every_student_is_measured_at_its_own_number_of_steps():
    assert {(name, steps, 1.0) for name, steps in STUDENTS.items()} <= set(RUNS) and len(set(RUNS)) == len(RUNS)


@pytest.mark.slow
def test_the_command_trains_and_measures_once(small, tmp_path, monkeypatch):
    begun, trained = [], few_steps.train_student
    monkeypatch.setattr(few_steps, "train_student", lambda name, *more: begun.append(name) or trained(name, *more))
    start(small, "1 step", more=["--only-train"])
    assert not (tmp_path / "out").exists() and not list((tmp_path / "work").rglob("state.safetensors"))
    start(small, *SOME)
    assert begun == ["1 step", "4 steps"]
    rows = read_table(tmp_path / "out/table.csv", Fewer)
    assert [row[:3] for row in rows] == few_steps.RUNS and all(row.prompts == 6 for row in rows)
    assert len({row.stated for row in rows}) == 1 and all(0 <= row.found <= row.stated for row in rows)
    assert Image.open(tmp_path / "out/pictures.png").size == (128, 128)
    start(small, *SOME)
    assert len(begun) == 2 and read_table(tmp_path / "out/table.csv", Fewer) == rows
    for name in SOME:
        ldm = open_student(name, tmp_path / "root", tmp_path / "work", "cpu")
        assert ldm.distilled and ldm.text_to_image("a cat", steps=1).isfinite().all()
    assert open_student("2 steps", tmp_path / "root", tmp_path / "work", "cpu") is None
    assert folder_of("4 steps", tmp_path).name == "4-steps"


def test_a_root_that_is_not_there_is_a_sentence(small, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main([*map(str, small), "--root", str(tmp_path / "nowhere")])
    assert end.value.code == 2 and "nowhere" in capsys.readouterr().err and not (tmp_path / "work/1-step").exists()


@pytest.mark.slow
def test_the_recipes_lora_is_not_trained_again(small, tmp_path):
    """It is the student of four steps."""
    start(small, "1 step", more=["--only-train"])
    (tmp_path / "work/1-step").rename(tmp_path / "root/few-steps")
    assert open_student("4 steps", tmp_path / "root", tmp_path / "work", "cpu").distilled
    assert open_student("1 step", tmp_path / "root", tmp_path / "work", "cpu") is None


def test_a_row_says_what_the_oracle_finds(ldm, monkeypatch):
    monkeypatch.setattr(few_steps, "ASKED", 2)
    monkeypatch.setattr(few_steps, "SEEDS", 2)
    ldm.spacing, oracle, captions = "trailing", Oracle.load(), captions_of("validation", 6)
    real = features(torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    pictures = ldm.text_to_image([caption.text for caption in captions], 3, 4.0, spacing="trailing")
    row = measure(ldm, ("teacher", 3, 4.0), pictures + 0.02, real, oracle)
    found = score(captions, oracle.read(pictures))
    ldm.spacing = None
    assert row[:4] == ("teacher", 3, 4.0, 6) and row.likeness == pytest.approx(40, abs=1)    # 10 log10 (2 / 0.02)²
    assert row.distance == pytest.approx(frechet_distance(real, features(pictures)), rel=1e-3)
    assert row.found / row.stated == pytest.approx(found.accuracy) and row.all_right / 6 == found.all_right


def test_the_spread_is_the_mean_distance_between_two_pictures_of_a_prompt(ldm, monkeypatch):
    monkeypatch.setattr(few_steps, "ASKED", 2)
    monkeypatch.setattr(few_steps, "SEEDS", 3)
    texts = [caption.text for caption in captions_of("validation", 2) for _ in range(3)]
    points = features(ldm.text_to_image(texts, 2, 4.0, seed=1000))
    pairs = [(points[k + i] - points[k + j]).norm() for k in (0, 3) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert spread(ldm, 2, 4.0) == pytest.approx(sum(pairs).item() / 6, rel=1e-3)
