"""The training loop: a killed and resumed run equals an unbroken one, and bad losses cost nothing."""
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from ldm_edu.recipes import runner as recipes
from ldm_edu.recipes.profile import Profile
from ldm_edu.recipes.runner import PROFILES, run, state_folder
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


def test_steps_and_precision_of_the_command_line_take_the_place_of_the_profiles(monkeypatch):
    began = []
    monkeypatch.setattr(recipes, "run", lambda *arguments: began.append(arguments))
    recipes.main(["ldm", "--steps", "3", "--precision", "bfloat16", "--out", "somewhere"])
    recipes.main(["ldm", "--out", "somewhere"])
    shipped = PROFILES["ldm"]["cpu"]
    assert began[0][1] == replace(shipped, train=replace(shipped.train, steps=3, precision="bfloat16"))
    assert began[1][1] == shipped
    with pytest.raises(SystemExit):
        recipes.main(["ldm", "--precision", "float8"])


def one_of_two(rank, folder, breaks):
    """A process of two that train together; a fresh interpreter, so what it needs is passed."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    model, loss_fn = tiny_problem()

    def broken(model, generator):
        return {name: loss * float("nan") if rank == 1 else loss for name, loss in loss_fn(model, generator).items()}

    path = folder / f"rank{rank}.safetensors"
    try:
        for _ in train(model, broken if breaks else loss_fn, CONFIG, path):
            pass
        torch.save(model.state_dict(), folder / f"rank{rank}.pt")
    except FloatingPointError:
        (folder / f"rank{rank}.stopped").touch()
    dist.destroy_process_group()


def test_two_processes_equal_one_with_both_batches(tmp_path):
    torch.multiprocessing.spawn(one_of_two, (tmp_path, False), nprocs=2)
    model, loss_fn = tiny_problem()

    def both(model, generator):
        seeds = (2 * generator.initial_seed(), 2 * generator.initial_seed() + 1)
        a, b = (loss_fn(model, torch.Generator().manual_seed(seed)) for seed in seeds)
        return {name: (a[name] + b[name]) / 2 for name in a}

    list(train(model, both, CONFIG))
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank{rank}.pt")
        for name, value in model.state_dict().items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)
    assert (tmp_path / "rank0.safetensors").exists() and not (tmp_path / "rank1.safetensors").exists()


def test_a_bad_loss_in_one_process_stops_both(tmp_path):
    torch.multiprocessing.spawn(one_of_two, (tmp_path, True), nprocs=2)
    assert sorted(path.name for path in tmp_path.glob("*.stopped")) == ["rank0.stopped", "rank1.stopped"]


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
    with pytest.raises(FileNotFoundError, match="--resume"):
        run("vae", PROFILES["vae"]["cpu"], tmp_path / "out", resume=True)


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


SMALL = Profile(TrainConfig(3, save_every=2), batch=2, scenes=6)


@pytest.mark.parametrize("name", ["oracle", "features", "vae"])
def test_a_recipe_from_start_to_checkpoint(name, tmp_path):
    """Three steps, killed after the checkpoint at two and resumed: the same log and weights as in one go."""
    run(name, SMALL, tmp_path / "one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "train", killed_after_two)
        with pytest.raises(KeyboardInterrupt):
            run(name, SMALL, tmp_path / "two")
    run(name, SMALL, tmp_path / "two", resume=True)
    for out in ("one", "two"):
        folder = state_folder(tmp_path / out, name)
        assert (folder / "loss.png").exists()
        assert [line.split(",")[0] for line in (folder / "log.csv").read_text().split()] == ["step", "1", "2", "3"]
    logs = [(state_folder(tmp_path / out, name) / "log.csv").read_text() for out in ("one", "two")]
    assert logs[0] == logs[1]
    weights = [sorted((tmp_path / out).rglob("*.safetensors")) for out in ("one", "two")]
    for a, b in zip(*weights):
        x, y = read_tensors(a), read_tensors(b)
        assert all(torch.equal(x[k], y[k]) for k in x)


def test_a_killed_run_of_the_unet_ends_as_an_unbroken_one(tmp_path):
    """Its weights lie with their channels last; bit for bit, as for the recipes above."""
    run("clip", SMALL, tmp_path / "clip")
    for out in (tmp_path / "one", tmp_path / "two"):
        run("vae", SMALL, out)
    run("ldm", SMALL, tmp_path / "one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "train", killed_after_two)
        with pytest.raises(KeyboardInterrupt):
            run("ldm", SMALL, tmp_path / "two")
    run("ldm", SMALL, tmp_path / "two", resume=True)
    one, two = (read_tensors(state_folder(tmp_path / out, "ldm") / "state.safetensors") for out in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def killed_after_two(*arguments):
    for progress in train(*arguments):
        yield progress
        if progress.step == 2:
            raise KeyboardInterrupt


def test_a_finished_run_can_be_saved_again(tmp_path):
    run("vae", SMALL, tmp_path / "model")
    path = tmp_path / "model/vae/diffusion_pytorch_model.safetensors"
    before = path.read_bytes()
    path.unlink()
    run("vae", SMALL, tmp_path / "model", resume=True)
    assert path.read_bytes() == before


def test_ldm_recipe_makes_a_folder_that_opens(tmp_path):
    """All three conditions; CLIP's image transformer arrives unchanged, its text transformer has learned on; a warm
    start begins where the saved one ended."""
    from ldm_edu.pipeline import LatentDiffusion

    run("clip", SMALL, tmp_path / "clip")
    run("vae", SMALL, tmp_path / "model")
    run("decoder", SMALL, tmp_path / "model")
    run("ldm", replace(SMALL, train=TrainConfig(6)), tmp_path / "model")
    path = tmp_path / "model/unet/diffusion_pytorch_model.safetensors"
    others = [tmp_path / "model" / part / "model.safetensors" for part in ("map_encoder", "text_encoder")]
    before, others_before = read_tensors(path), [read_tensors(other) for other in others]
    run("ldm", replace(SMALL, train=TrainConfig(1, lr=1e-12)), tmp_path / "model", warm=True)
    assert all(torch.equal(before[key], value) for key, value in read_tensors(path).items())
    for other, expected in zip(others, others_before):
        assert all(torch.equal(expected[key], value) for key, value in read_tensors(other).items())
    clip = read_tensors(tmp_path / "clip/model.safetensors")
    for part, unchanged in (("text_encoder", False), ("image_encoder", True)):
        tensors = read_tensors(tmp_path / "model" / part / "model.safetensors")
        assert tensors and all(torch.equal(clip[key], value) for key, value in tensors.items()) == unchanged
    ldm = LatentDiffusion.from_pretrained(tmp_path / "model")
    for pictures in (ldm.text_to_image("a red boat", steps=2), ldm.variations(torch.zeros(1, 3, 64, 64), steps=2),
                     ldm.map_to_image(torch.zeros(1, 64, 64, dtype=torch.long), steps=2)):
        assert pictures.shape == (1, 3, 64, 64) and pictures.isfinite().all()


def test_decoder_recipe_leaves_the_latents_alone(tmp_path):
    run("vae", SMALL, tmp_path / "model")
    before = read_tensors(tmp_path / "model/vae/diffusion_pytorch_model.safetensors")
    run("decoder", SMALL, tmp_path / "model")
    after = read_tensors(tmp_path / "model/vae/diffusion_pytorch_model.safetensors")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "post_quant_conv"}


@pytest.mark.parametrize("name", ["oracle", "segmenter", "features", "vae", "clip"])
def test_a_warm_start_begins_where_the_saved_model_ended(name, tmp_path):
    """One step at a vanishing rate must give back what it started from; a cold start cannot."""
    still = replace(SMALL, train=TrainConfig(1, lr=1e-12, seed=1))
    run(name, SMALL, tmp_path / "model")
    path, = (tmp_path / "model").rglob("*.safetensors")
    before = read_tensors(path)
    run(name, still, tmp_path / "model", warm=True)
    after = read_tensors(path)
    assert all(torch.equal(before[key], after[key]) for key in before)
    run(name, still, tmp_path / "model")
    cold = read_tensors(path)
    assert not all(torch.equal(before[key], cold[key]) for key in before)


def test_a_warm_autoencoder_is_held_to_its_latents_also_when_resumed(tmp_path):
    out = tmp_path / "model"
    run("vae", SMALL, out)
    log = state_folder(out, "vae") / "log.csv"
    assert "anchor" not in log.read_text()
    kept = {path: path.read_bytes() for path in out.rglob("*.safetensors")}
    run("vae", SMALL, out, warm=True)
    unbroken = log.read_text().splitlines()
    assert unbroken[0].endswith(",anchor") and float(unbroken[-1].split(",")[-1]) > 0
    for path, data in kept.items():    # as if it had been killed before the end
        path.write_bytes(data)
    run("vae", replace(SMALL, train=replace(SMALL.train, steps=SMALL.train.steps + 1)), out, resume=True)
    assert log.read_text().splitlines()[0] == unbroken[0]


def test_a_warm_start_needs_a_model(tmp_path):
    with pytest.raises(FileNotFoundError):
        run("ldm", SMALL, tmp_path / "nothing", warm=True)


def test_unknown_recipe(tmp_path):
    with pytest.raises(ValueError, match="expected one of oracle, segmenter, features, vae"):
        run("gan", SMALL, tmp_path)
