"""The doctor: each planted fault is named by its own check and by no other, and a healthy model has no finding."""
import copy
import csv
import json
import re
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

from ldm_edu import DATA, training
from ldm_edu.doctor.__main__ import main
from ldm_edu.doctor.examine import SCHEDULES, Case, default_examples, examine
from ldm_edu.doctor.faults import FAULTS, planted
from ldm_edu.doctor.findings import REMEDIES, Finding, report
from ldm_edu.doctor.training_run import examine_run
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.schedule import cosine_schedule, linear_schedule, scaled_linear_schedule
from ldm_edu.support.files import read_tensors, write_tensors
from ldm_edu.support.logs import logged
from ldm_edu.training import TrainConfig, train
from ldm_edu.unet import UNet

CHECKPOINT = DATA / "tiny-worlds"
EMPTY_CHANNEL = "KL", "warning"    # known of the shipped model: one of its four latent channels is empty


@pytest.fixture(scope="module")
def ldm() -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def examples() -> list:
    return default_examples()[:8]


@pytest.fixture
def few_examples(monkeypatch, examples):
    """Where the number of examples is not the point, 8 are faster than 32."""
    for module in ("examine", "training_run"):
        monkeypatch.setattr(f"ldm_edu.doctor.{module}.default_examples", lambda: examples)


@pytest.fixture(scope="module")
def weights(ldm) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": value.clone() for part, network in vars(ldm).items()
            if isinstance(network, nn.Module) for name, value in network.state_dict().items()}


def checks(found: list[Finding]) -> list[str]:
    assert all(finding.remedy and finding.severity in ("stop", "fault", "warning") for finding in found)
    return [finding.check for finding in found if (finding.check, finding.severity) != EMPTY_CHANNEL]


# ---- A model ----

@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_shipped_checkpoint_has_one_warning(few, request, capsys):
    """An empty latent channel. few: with 8 examples, not 32."""
    if few:
        request.getfixturevalue("few_examples")
    assert main([str(CHECKPOINT)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("warning, KL: 1 of 4 latent channels hold 0.00") and said.count("  -> ") == 1


@pytest.mark.slow
def test_and_by_a_margin(ldm, examples):
    """Far stricter bounds hold as well, so the next checkpoint will not fail by chance."""
    with torch.no_grad():
        case = Case(ldm, examples)
        for kind in case.contexts:
            for t, most in zip(case.levels, case.schedule.alpha_bar[case.levels].tolist()):
                assert case.loss(t, kind) < 0.7 * most
            assert sum(case.loss(t, kind, shift=1) / case.loss(t, kind) for t in case.levels) / 5 > 1.5
        for t in case.levels[1:4]:
            losses = {u: case.loss(t, "text", u) for u in range(t - 100, t + 101, 20)}
            assert abs(min(losses, key=losses.get) - t) <= 20 and min(losses.values()) > 0.97 * losses[t]
    assert 0.85 < case.z.std() < 1.15


@pytest.mark.parametrize("alone", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_and_no_other(ldm, weights, examples, name, alone):
    """alone: text as the only condition, which takes a third of the time."""
    broken = planted(ldm, name)
    if alone:
        _text_alone(broken)
    assert checks(examine(broken, examples)) == [FAULTS[name].check]
    for part, network in vars(ldm).items():
        for key, value in network.state_dict().items() if isinstance(network, nn.Module) else ():
            assert torch.equal(value, weights[f"{part}.{key}"]), f"{name} has changed the original's {part}.{key}"


class Dull(nn.Module):
    """Knows the noise level, and only a hint of what the U-Net knows."""

    def __init__(self, unet, schedule):
        super().__init__()
        self.unet, self.schedule, self.config = unet, schedule, unet.config

    def forward(self, x, t, context):
        return 0.95 * (1 - self.schedule.alpha_bar[t]).sqrt() * x + 0.05 * self.unet(x, t, context)


def _nothing(module: nn.Module):
    for parameter in module.parameters():
        parameter.zero_()


def _channel(ldm):
    ldm.autoencoder.quant_conv.weight[[2, 6]] = 0
    ldm.autoencoder.quant_conv.bias[[2, 6]] = 0


def _other_unet(ldm):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        ldm.unet = UNet(ldm.unet.config).eval()
        nn.init.normal_(ldm.unet.conv_out.weight, std=0.1)


def _other_map(ldm):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        ldm.map_encoder.transformer = type(ldm.map_encoder.transformer)(ldm.map_encoder.transformer.config)


def _text_alone(ldm):
    ldm.image_encoder = ldm.map_encoder = None


def _same_tokens(ldm):
    _text_alone(ldm)
    ldm.text.forward = lambda prompts: ldm.text.transformer(torch.full((len(prompts), 32), 5))


MORE = {
    "healthy, with text as the only condition": (_text_alone, []),
    "half the scale": (lambda ldm: vars(ldm.autoencoder).update(
        config=replace(ldm.autoencoder.config, scale=ldm.autoencoder.config.scale / 2)), ["latent scale"]),
    "a second dead channel": (_channel, ["KL"]),
    "a decoder that gives up": (lambda ldm: _nothing(ldm.autoencoder.decoder.conv_out), ["reconstruction"]),
    "infinity in the autoencoder": (lambda ldm: ldm.autoencoder.decoder.conv_out.bias.fill_(float("inf")), ["numbers"]),
    "cosine": (lambda ldm: vars(ldm).update(schedule=cosine_schedule()), ["schedule"]),
    "a schedule of nobody": (lambda ldm: vars(ldm).update(schedule=scaled_linear_schedule(beta_end=0.03)),
                             ["schedule"]),
    "a random U-Net": (_other_unet, ["zero predictor"]),
    "a dull U-Net": (lambda ldm: vars(ldm).update(unet=Dull(ldm.unet, ldm.schedule)), ["trivial predictor"]),
    "the same tokens whatever the prompt": (_same_tokens, ["context"]),
    "an image encoder of zeros": (lambda ldm: _nothing(ldm.image_encoder), ["context"]),
    "another map encoder": (_other_map, ["listening"]),
    "one layer without queries": (lambda ldm: _nothing(ldm.unet.mid_block.attention.block.cross_attn.to_q),
                                  ["attention entropy"]),
}


QUICK = ("healthy, with text as the only condition", "infinity in the autoencoder")


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
                                  for name in MORE])
def test_more_faults(ldm, examples, name):
    plant, expected = MORE[name]
    broken = copy.deepcopy(ldm)
    if "image" not in name and "map" not in name:
        _text_alone(broken)    # which takes a third of the time
    with torch.no_grad():
        plant(broken)
    assert checks(examine(broken, examples)) == expected


def test_captions_of_other_pictures_are_noticed(ldm, examples):
    texts = [example.text for example in examples]
    mixed = [example._replace(text=text, semantic_map=None) for example, text in zip(examples, texts[5:] + texts[:5])]
    found = examine(ldm, mixed)
    assert checks(found) == ["listening"] and "the text of another picture" in found[-1].what


def test_which_schedule_would_fit_is_said(ldm, examples):
    broken = planted(ldm, "the schedule is another than in training")
    _text_alone(broken)
    *_, found = examine(broken, examples)
    assert "that of the scaled-linear schedule" in found.what and found.severity == "stop"
    assert {make().T for make in SCHEDULES.values()} == {1000}


def test_the_same_every_time(ldm, examples):
    broken = planted(ldm, "the U-Net's weights were not loaded")
    _text_alone(broken)
    assert examine(broken, examples) == examine(broken, examples)


def test_the_loss_is_the_mean_squared_error_of_the_noise(ldm, examples):
    """Written out, with diffusers' way to add noise."""
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    with torch.no_grad():
        case = Case(ldm, examples)
        t = torch.full((8,), 500)
        noisy = scheduler.add_noise(case.z, case.eps, t)
        shifted = ldm.text([examples[(i - 1) % 8].text for i in range(8)])
        expected = [(ldm.unet(noisy, t, context) - case.eps).square().mean().item()
                    for context in (ldm.text([example.text for example in examples]), shifted)]
        expected.append((ldm.unet(noisy, t - 100, shifted) - case.eps).square().mean().item())
        found = [case.loss(500, "text"), case.loss(500, "text", shift=1), case.loss(500, "text", t_unet=400, shift=1)]
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("t", [50, 500, 950])
def test_the_error_of_the_best_multiple_is_alpha_bar(t):
    """Of latents with variance 1: by least squares, on a million numbers."""
    schedule = linear_schedule()
    z, eps = torch.randn(2, 1_000_000, generator=torch.Generator().manual_seed(0))
    z_t = schedule.add_noise(z, eps, t)
    best = (z_t @ eps) / (z_t @ z_t)
    assert (best * z_t - eps).square().mean().item() == pytest.approx(schedule.alpha_bar[t].item(), rel=0.01)


@pytest.mark.parametrize("change, message", [
    (lambda examples: examples[:7], "examples: got 7, expected at least 8, with different texts"),
    (lambda examples: [examples[0]] * 8, "examples: got 8, expected at least 8, with different texts"),
    (lambda examples: [e._replace(image=e.image[:, :60]) for e in examples], r"image: got \(8, 3, 60, 64\)"),
    (lambda examples: [e._replace(image=e.image * 127) for e in examples], r"expected pixels in \[-1, 1\]"),
])
def test_bad_examples_are_named(ldm, examples, change, message):
    with pytest.raises(ValueError, match=message):
        examine(ldm, change(examples))


def test_an_unknown_fault_is_named(ldm):
    with pytest.raises(ValueError, match="name: got 'gremlins', expected one of the scale factor is Stable "):
        planted(ldm, "gremlins")


def test_the_report():
    found = [Finding("KL", "fault", "two channels. " * 10), Finding("schedule", "stop", "another.")]
    lines = report(found).splitlines()
    assert max(map(len, lines)) <= 90 and lines[0].startswith("fault, KL: two") and "  -> Posterior" in report(found)
    assert lines[-1] == "Later checks were skipped: fix this, then ask again."
    assert report(found[:1]).splitlines()[-1] != lines[-1] and report([]) == "Nothing found."
    assert {fault.check for fault in FAULTS.values()} <= set(REMEDIES)


# ---- A training run ----

def run(folder, steps=300, **config):
    """A small run, and the files it leaves."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    nn.init.zeros_(model[0].bias)

    def loss_fn(model, generator):
        x = torch.randn(16, 4, generator=generator)
        mse = (model(x) - x.sum(1, keepdim=True)).square().mean()
        return {"mse": mse, "size": 0.01 * model[0].weight.square().mean()}

    folder.mkdir()
    config = TrainConfig(**dict(steps=steps, lr=1e-2, warmup=5, save_every=100) | config)
    for _ in logged(train(model, loss_fn, config, folder / "state.safetensors"), folder / "log.csv", "toy", steps):
        pass
    return folder


def test_a_healthy_run_has_no_finding(tmp_path, capsys):
    assert examine_run(run(tmp_path / "a")) == [] == examine_run(run(tmp_path / "b", steps=20))
    assert main([str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out == "Nothing found. Checked: log, EMA, numbers.\n"


def _never(ema, model, decay, step):
    pass


def _far_too_slow(ema, model, decay, step):
    for average, value in zip(ema.parameters(), model.parameters()):
        average.data.lerp_(value.data, 1e-5)


@pytest.mark.parametrize("update", [_never, _far_too_slow])
def test_an_average_that_does_not_follow_is_found(tmp_path, monkeypatch, capsys, update):
    monkeypatch.setattr(training, "ema_update", update)
    assert checks(examine_run(run(tmp_path / "a"))) == ["EMA"]
    assert main([str(tmp_path / "a")]) == 1 and "call ema_update after every step" in capsys.readouterr().out


def test_an_average_that_never_moved_is_found_however_little_was_trained(tmp_path, monkeypatch):
    """The bias that began as zeros gives it away."""
    monkeypatch.setattr(training, "ema_update", _never)
    found = examine_run(run(tmp_path / "a", steps=3, warmup=100))
    assert checks(found) == ["EMA"] and "1 of 4 tensors are as before the training" in found[0].what


@pytest.mark.parametrize("row, change, expected", [
    (250, lambda loss: "nan", ["log"]), (3, lambda loss: "inf", ["log"]),
    (270, lambda loss: "9000", ["log"]), (100, lambda loss: "9", []),
])
def test_losses_that_explode_are_found(tmp_path, row, change, expected):
    folder = run(tmp_path / "a")
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for number in range(row, 300 if row == 270 else row + 1):
        rows[number]["mse"] = change(rows[number]["mse"])
    with open(folder / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    found = examine_run(folder)
    assert checks(found) == expected and all(f"row {row + 1} " in f.what for f in found if f.severity == "stop")


def test_weights_that_are_no_numbers_are_found(tmp_path):
    folder = run(tmp_path / "a")
    tensors = {name: value.clone() for name, value in read_tensors(folder / "state.safetensors").items()}    # unmapped
    tensors["model.2.bias"].fill_(float("nan"))
    write_tensors(folder / "state.safetensors", tensors)
    found = examine_run(folder)
    assert checks(found) == ["numbers"] and "2.bias" in found[0].what


@pytest.fixture
def ldm_run(ldm, tmp_path):
    """The files of a run of the recipe ldm that has just reached the shipped weights, and the checkpoint beside it."""
    folder = tmp_path / "training" / "ldm"
    folder.mkdir(parents=True)
    (tmp_path / "tiny-worlds").symlink_to(CHECKPOINT, target_is_directory=True)
    parts = {"unet": ldm.unet, "text": ldm.text, "image": ldm.image_encoder, "map": ldm.map_encoder}
    tensors = {f"{kind}.{part}.{name}": value.clone() for part, network in parts.items()
               for name, value in network.state_dict().items() for kind in ("model", "ema")}

    def change(plant):
        for name in tensors:
            tensors[name] = plant(name, tensors[name])
        write_tensors(folder / "state.safetensors", tensors | {"step": torch.tensor(7)})
        (folder / "log.csv").write_text("step,lr,loss\n" + "".join(f"{i},0.001,0.1\n" for i in range(7)))
        return folder
    return change


def test_a_run_of_the_u_net_is_examined_with_its_averaged_weights(ldm_run, few_examples, capsys):
    assert main([str(ldm_run(lambda name, value: value))]) == 0
    folder = ldm_run(lambda name, value: 0 * value if ".text." in name else value)
    assert main([str(folder)]) == 1 and "fault, context: whatever the text" in capsys.readouterr().out
    (folder.parent.parent / "tiny-worlds").unlink()    # a first run has no model yet: only its files are examined
    assert main([str(folder)]) == 0 and "Checked: log, EMA, numbers." in capsys.readouterr().out


def test_an_average_that_lags_is_found(ldm_run, few_examples):
    def lag(name, value):
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
        return value + 0.25 * value.std() * noise if name.startswith("ema.unet.") and value.ndim > 1 else value

    assert checks(examine_run(ldm_run(lag), CHECKPOINT)) == ["EMA lag"]


# ---- What cannot be examined ----

def test_what_is_neither_checkpoint_nor_run_is_refused(tmp_path, capsys):
    def refused(folder) -> str:
        with pytest.raises(SystemExit) as end:
            main([str(folder)])
        ran = capsys.readouterr()
        assert end.value.code == 2 and ran.out == ""
        return ran.err

    assert "nowhere is no checkpoint (with model_index.json) and no training run" in refused(tmp_path / "nowhere")
    assert "is no checkpoint" in refused(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    assert "model_index.json is not JSON" in refused(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    assert re.search("lacks .*unet/config.json", refused(tmp_path))
    (tmp_path / "model_index.json").unlink()
    folder = run(tmp_path / "a")
    (folder / "log.csv").write_text("step,lr,loss\n1,0.1,low\n")
    assert "log.csv: expected numbers, could not convert string to float: 'low'" in refused(folder)
    (folder / "log.csv").write_text("step,lr,loss\n")
    assert "is no run: expected rows in log.csv" in refused(folder)
    (folder / "log.csv").unlink()
    assert re.search("folder: .*a lacks log.csv$", refused(folder).strip())


def test_a_run_of_another_model_is_refused(ldm_run, capsys):
    folder = ldm_run(lambda name, value: value[:1] if name.endswith("unet.conv_in.bias") else value)
    with pytest.raises(SystemExit, match="2"):
        main([str(folder)])
    assert re.search("training/ldm is no run of .*tiny-worlds: ", capsys.readouterr().err)


def test_a_checkpoint_with_the_wrong_scheduler_on_disk(ldm, few_examples, tmp_path, capsys):
    ldm.save_pretrained(tmp_path / "mine")
    path = tmp_path / "mine/scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beta_schedule": "linear"}))
    assert main([str(tmp_path / "mine")]) == 1
    assert "stop, schedule: " in capsys.readouterr().out
