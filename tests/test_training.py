"""The training loop: a killed and resumed run equals an unbroken one, and bad losses cost nothing."""
from dataclasses import replace

import pytest
import torch
from torch import nn

from ldm_edu.support.files import read_tensors
from ldm_edu.training import TrainConfig, ema_update, learning_rate, train


def tiny_problem():
    """A convolution whose weights lie with their channels last, as the U-Net's do: moments and gradients must too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 2), nn.Flatten(), nn.Tanh(), nn.Linear(4, 1))
    model.to(memory_format=torch.channels_last)

    def loss_fn(model, generator):
        x = torch.randn(16, 4, generator=generator)
        mse = (model(x.view(-1, 4, 1, 1).expand(-1, -1, 2, 2)) - x.sum(1, keepdim=True)).square().mean()
        return {"mse": mse, "size": 1e-3 * model[0].weight.square().mean()}

    return model, loss_fn


CONFIG = TrainConfig(steps=40, lr=1e-2, warmup=5, save_every=10)


def test_it_learns_and_yields_every_step():
    model, loss_fn = tiny_problem()
    seen = list(train(model, loss_fn, replace(CONFIG, steps=300)))
    assert [p.step for p in seen] == list(range(1, 301)) and set(seen[0].losses) == {"mse", "size"}
    assert seen[-1].losses["mse"] < 0.1 * seen[0].losses["mse"]


@pytest.mark.parametrize("muon", [False, True])
def test_killed_and_resumed_equals_unbroken(tmp_path, muon, monkeypatch):
    monkeypatch.setattr("ldm_edu.support.muon.HIDDEN", 4)    # this problem's matrices are small
    config = replace(CONFIG, muon=muon)
    model, loss_fn = tiny_problem()
    *_, unbroken = train(model, loss_fn, config, tmp_path / "a.safetensors")
    model, loss_fn = tiny_problem()
    for progress in train(model, loss_fn, config, tmp_path / "b.safetensors"):
        if progress.step == 25:    # killed between two checkpoints: steps 21 to 25 are lost and done again
            break
    model, loss_fn = tiny_problem()
    for resumed in train(model, loss_fn, config, tmp_path / "b.safetensors", resume=True):
        assert resumed.step > 20
    assert resumed.losses == unbroken.losses
    a, b = read_tensors(tmp_path / "a.safetensors"), read_tensors(tmp_path / "b.safetensors")
    assert a.keys() == b.keys() and any(name.startswith("optimizer.") for name in a)
    assert any(name.endswith(".momentum") for name in a) == muon
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_on_a_cpu_nothing_is_recorded():
    """The same plan serves where there is no GPU."""
    ends = []
    for recorded in (False, True):
        model, loss_fn = tiny_problem()
        *_, last = train(model, loss_fn, replace(CONFIG, recorded=recorded))
        ends.append(last.losses)
    assert ends[0] == ends[1]


def test_bfloat16_learns_about_the_same_in_weights_of_float32():
    def last_loss(precision):
        model, loss_fn = tiny_problem()
        *_, last = train(model, loss_fn, replace(CONFIG, steps=200, precision=precision))
        assert all(p.dtype == torch.float32 for p in model.parameters())
        return last.losses["mse"]

    assert last_loss("float32") != last_loss("bfloat16") == pytest.approx(last_loss("float32"), rel=0.3)


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(tmp_path):
    model, loss_fn = tiny_problem()
    path = tmp_path / "state.safetensors"

    def breaks(model, generator):
        losses = loss_fn(model, generator)
        return {"mse": losses["mse"] * (float("nan") if generator.initial_seed() == 14 else 1)}

    with pytest.raises(FloatingPointError, match=r"nan by step 14; last good checkpoint: .*state\.safetensors"):
        list(train(model, breaks, CONFIG, path))
    assert int(read_tensors(path)["step"]) == 10


def test_a_gradient_that_is_not_finite_is_not_saved(tmp_path):
    """The loss itself is finite, and the step is one that saves."""
    model, loss_fn = tiny_problem()
    path = tmp_path / "state.safetensors"

    def breaks(model, generator):
        bad = (model[0].weight.flatten()[0] * 0).sqrt() if generator.initial_seed() == 19 else 0.0    # 0, slope NaN
        return {"mse": loss_fn(model, generator)["mse"] + bad}

    with pytest.raises(FloatingPointError, match=r"norm nan by step 19; last good checkpoint: .*state\.safetensors"):
        list(train(model, breaks, CONFIG, path))
    tensors = read_tensors(path)
    assert int(tensors["step"]) == 10 and all(value.isfinite().all() for value in tensors.values())


def test_nothing_to_resume_from(tmp_path):
    model, loss_fn = tiny_problem()
    with pytest.raises(FileNotFoundError, match="state.safetensors"):
        list(train(model, loss_fn, CONFIG, tmp_path / "state.safetensors", resume=True))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"lr": 0.0}, {"ema": 1.0}, {"precision": "float16"}])
def test_bad_config(wrong):
    with pytest.raises(ValueError, match="expected"):
        replace(CONFIG, **wrong)


def test_learning_rate_shape():
    config = TrainConfig(steps=100, lr=2.0, warmup=10, cooldown=0.2)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9:80] == [2.0] * 71 and rates[90] == pytest.approx(1.0)
    longer = [learning_rate(step, replace(config, steps=200)) for step in range(80)]
    assert longer == rates[:80]    # so that a run can be prolonged


def test_ema_of_a_constant_and_of_a_ramp():
    model, average = nn.Linear(1, 1), nn.Linear(1, 1)
    expected = average.weight.item()
    for step in range(50):
        nn.init.constant_(model.weight, step)
        ema_update(average, model, 0.9, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.weight.item() == pytest.approx(expected, rel=1e-5)
