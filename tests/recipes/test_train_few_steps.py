"""The distillation's recipe: what the teacher shows, which path meets which caption, and the file that it makes."""
import shutil

import pytest
import torch
from torch import nn

from ldm_edu import DATA
from ldm_edu.lora import load_lora
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.recipes import train_few_steps
from ldm_edu.recipes.profiles import Profile
from ldm_edu.recipes.runner import run
from ldm_edu.recipes.train_few_steps import RANK, demonstrate, landing
from ldm_edu.support.files import read_tensors
from ldm_edu.tiny_worlds.datasets import TinyWorlds
from ldm_edu.training import TrainConfig

COUNT, SHORT = 5, 8    # paths; steps of the teacher here


@pytest.fixture(scope="module")
def ldm() -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(DATA / "tiny-worlds")


def texts() -> list[str]:
    captions = TinyWorlds("train", COUNT)
    return [captions.caption(i).text for i in range(COUNT)]


def test_a_path_is_how_the_model_draws_a_training_caption(ldm, tmp_path):
    """Each starts from noise of variance one and ends where `denoise` ends, guided, within float16."""
    shown = demonstrate(ldm, COUNT, tmp_path / "paths.safetensors", SHORT)
    assert shown.paths.shape == (COUNT, 9, 4, 8, 8) and shown.paths.dtype == torch.float16
    noise = torch.randn(COUNT, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    *_, last = ldm.denoise(texts(), SHORT, 4.0, seed=0, spacing="trailing")
    assert torch.equal(shown.paths[:, 0], noise.half()) and (shown.paths[:, -1] - last.x).abs().max() < 5e-3
    with torch.no_grad():
        torch.testing.assert_close(shown.contexts, ldm.text(texts()))


def test_paths_are_kept_until_the_model_or_their_number_is_another(ldm, tmp_path, monkeypatch):
    file, drawn, teacher_path = tmp_path / "paths.safetensors", [], train_few_steps.teacher_path
    monkeypatch.setattr(train_few_steps, "teacher_path", lambda *given: drawn.append(0) or teacher_path(*given))
    first = demonstrate(ldm, COUNT, file, SHORT)
    assert torch.equal(demonstrate(ldm, COUNT, file, SHORT).paths, first.paths) and len(drawn) == 1
    assert len(demonstrate(ldm, COUNT - 1, file, SHORT).paths) == COUNT - 1 and len(drawn) == 2
    with torch.no_grad():
        ldm.unet.time_mlp[0].weight[0, 0] += 1
        demonstrate(ldm, COUNT - 1, file, SHORT)
        ldm.unet.time_mlp[0].weight[0, 0] -= 1
    assert len(drawn) == 3


def test_a_path_meets_its_own_caption(ldm, tmp_path):
    """And its states are those at the levels of a student of two steps."""
    shown, met = demonstrate(ldm, COUNT, tmp_path / "paths.safetensors", SHORT), []

    class Student(nn.Module):
        def forward(self, x, t, context):
            met.extend(zip(x, t.tolist(), context))
            return x

    loss_fn = landing(shown, 2, 16)
    for step in range(4):
        loss_fn(Student(), torch.Generator().manual_seed(step))
    for x, t, context in met:
        which = (shown.contexts - context).abs().amax((1, 2)).argmin()
        assert torch.equal(x, shown.paths[which, {999: 0, 499: 4}[t]].float())
    assert {t for _, t, _ in met} == {999, 499} and len({context.sum().item() for *_, context in met}) == COUNT


def test_the_file_opens_on_the_model_that_it_was_made_from_alone(tmp_path, monkeypatch):
    """Through the runner; small enough to ship, in half precision, on every layer."""
    monkeypatch.setattr(demonstrate, "__defaults__", (SHORT,))    # steps of the teacher
    shutil.copytree(DATA / "tiny-worlds", tmp_path / "tiny-worlds")
    run("few_steps", Profile(TrainConfig(3, save_every=2), batch=2, scenes=3), tmp_path)
    file = tmp_path / "few-steps/pytorch_lora_weights.safetensors"
    tensors = read_tensors(file)
    assert file.stat().st_size < 1.5e6 and {value.dtype for value in tensors.values()} == {torch.float16}
    assert {len(value) for name, value in tensors.items() if "lora_A" in name} == {RANK}
    learned = [value.abs().amax() > 0 for name, value in tensors.items() if "lora_B" in name]
    assert all(learned) and len(learned) > 100
    ldm = LatentDiffusion.from_pretrained(tmp_path / "tiny-worlds")
    load_lora(ldm, tmp_path / "few-steps")
    assert ldm.distilled and ldm.text_to_image("a red boat", steps=4).isfinite().all()
