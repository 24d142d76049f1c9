"""The training loop: a killed and resumed run equals an unbroken one, and bad losses cost nothing."""
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from ldm_edu.support.arithmetic import arithmetic
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


def test_killed_and_resumed_equals_unbroken(tmp_path):
    model, loss_fn = tiny_problem()
    *_, unbroken = train(model, loss_fn, CONFIG, tmp_path / "a.safetensors")
    model, loss_fn = tiny_problem()
    for progress in train(model, loss_fn, CONFIG, tmp_path / "b.safetensors"):
        if progress.step == 25:    # killed between two checkpoints: steps 21 to 25 are lost and done again
            break
    model, loss_fn = tiny_problem()
    for resumed in train(model, loss_fn, CONFIG, tmp_path / "b.safetensors", resume=True):
        assert resumed.step > 20
    assert resumed.losses == unbroken.losses
    a, b = read_tensors(tmp_path / "a.safetensors"), read_tensors(tmp_path / "b.safetensors")
    assert a.keys() == b.keys() and any(name.startswith("optimizer.") for name in a)
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_medium_precision_learns_the_same_and_is_put_back_between_steps():
    """Weights and sums stay float32, so the losses hardly differ; what the caller computes meanwhile is as it was."""
    def last_loss(precision, expected):
        model, loss_fn = tiny_problem()

        def watched(model, generator):
            assert torch.get_float32_matmul_precision() == expected
            return loss_fn(model, generator)

        for progress in train(model, watched, replace(CONFIG, steps=200, precision=precision)):
            assert torch.get_float32_matmul_precision() == "highest"
        assert all(p.dtype == torch.float32 for p in model.parameters())
        return progress.losses["mse"]

    assert last_loss("medium", "medium") == pytest.approx(last_loss("float32", "highest"), rel=0.1)


def test_a_loss_that_raises_leaves_the_precision_as_it_was():
    model, _ = tiny_problem()
    with pytest.raises(ZeroDivisionError):
        next(train(model, lambda *_: {"loss": 1 / 0}, replace(CONFIG, precision="medium")))
    assert torch.get_float32_matmul_precision() == "highest"


def test_medium_precision_stays_within_the_rounding_of_bfloat16():
    """Against double precision; which kernel multiplies, and how well, is the CPU's."""
    a, b = (torch.randn(256, 256, generator=torch.Generator().manual_seed(i)) for i in range(2))
    q, k, v = a.view(4, 16, 32, 32), b.view(4, 16, 32, 32), a.flip(0).view(4, 16, 32, 32)
    with arithmetic("medium"):
        product, attended = a @ b, scaled_dot_product_attention(q, k, v)
    bound = 2 * 2**-8 * (a.abs() @ b.abs())
    assert ((product - (a.double() @ b.double())).abs() < bound).all()
    assert (attended - scaled_dot_product_attention(q.double(), k.double(), v.double())).abs().max() < 0.1


@pytest.mark.parametrize("precision, device, fused", [
    ("float32", "cpu", True), ("medium", "cpu", False), ("bfloat16", "cpu", False), ("bfloat16", "cuda", True)])
def test_the_fused_kernel_of_attention_is_left_out_on_cpus_alone(precision, device, fused):
    with arithmetic(precision, device):
        assert torch.backends.cuda.flash_sdp_enabled() == fused    # the name is old, CPUs follow it too
    assert torch.backends.cuda.flash_sdp_enabled()


def one_of_two(rank, folder):
    """A process of two that train together, well and then badly; a fresh interpreter, so what it needs is passed."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    model, loss_fn = tiny_problem()
    list(train(model, loss_fn, CONFIG, folder / f"rank{rank}.safetensors"))
    torch.save(model.state_dict(), folder / f"rank{rank}.pt")

    def broken(model, generator):
        return {name: loss * float("nan") if rank == 1 else loss for name, loss in loss_fn(model, generator).items()}

    try:
        list(train(model, broken, CONFIG))
    except FloatingPointError:
        (folder / f"rank{rank}.stopped").touch()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(one_of_two, (folder,), nprocs=2)
    return folder


@pytest.mark.slow
def test_two_processes_equal_one_with_both_batches(two_processes):
    model, loss_fn = tiny_problem()

    def both(model, generator):
        seeds = (2 * generator.initial_seed(), 2 * generator.initial_seed() + 1)
        a, b = (loss_fn(model, torch.Generator().manual_seed(seed)) for seed in seeds)
        return {name: (a[name] + b[name]) / 2 for name in a}

    list(train(model, both, CONFIG))
    for rank in (0, 1):
        found = torch.load(two_processes / f"rank{rank}.pt")
        for name, value in model.state_dict().items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)
    assert (two_processes / "rank0.safetensors").exists() and not (two_processes / "rank1.safetensors").exists()


@pytest.mark.slow
def test_a_bad_loss_in_one_process_stops_both(two_processes):
    assert sorted(path.name for path in two_processes.glob("*.stopped")) == ["rank0.stopped", "rank1.stopped"]


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(tmp_path):
    model, loss_fn = tiny_problem()
    path = tmp_path / "state.safetensors"

    def breaks(model, generator):
        losses = loss_fn(model, generator)
        return {"mse": losses["mse"] * (float("nan") if generator.initial_seed() == 14 else 1)}

    with pytest.raises(FloatingPointError, match=r"nan at step 14; last good checkpoint: .*state\.safetensors"):
        list(train(model, breaks, CONFIG, path))
    assert int(read_tensors(path)["step"]) == 10


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
