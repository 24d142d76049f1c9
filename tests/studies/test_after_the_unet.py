"""The study after the U-Net: its compute, its paths, what each arm learns, and that a killed study goes on."""
import math
from argparse import Namespace

import pytest
import torch
from torch import Tensor

from ldm_edu import DATA
from ldm_edu.dit import DiT, DiTConfig
from ldm_edu.flow import flow_euler, flow_levels, logit_normal, velocity_from_eps
from ldm_edu.losses import loss_weights
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.samplers import ddim, last_x
from ldm_edu.schedule import timesteps
from ldm_edu.studies import after_the_unet
from ldm_edu.studies.__main__ import main
from ldm_edu.studies.after_the_unet import (
    ARMS,
    SCHEDULE,
    Drawn,
    FlowUNet,
    Judge,
    build,
    flow_weights,
    path_length,
    sample,
    training_flop,
)
from ldm_edu.support.tables import read_table
from ldm_edu.training import train
from ldm_edu.unet import UNet, UNetConfig
from ldm_edu.weights import load_dit

OPTIONS = Namespace(steps=8, batch=4, scenes=12, count=4, device="cpu")


@pytest.fixture(scope="module")
def judge():
    return Judge(16, "cpu")


@pytest.fixture
def small(monkeypatch):
    """Networks of a few channels, one step of sampling at looks and three afterwards."""
    monkeypatch.setattr(after_the_unet, "SMALL_UNET", UNetConfig(
        channels=(16, 16), attention=(True, False), layers=1, heads=2, context_dim=128, groups=8, sample_size=8))
    monkeypatch.setattr(after_the_unet, "SMALL_DIT", DiTConfig(dim=32, layers=1, heads=2))
    monkeypatch.setattr(after_the_unet, "LOOK_STEPS", 1)
    monkeypatch.setattr(after_the_unet, "SWEEP", (1, 2))


def test_paths_are_measured():
    """A straight line, two sides of a right angle, and half a circle."""
    line = [torch.full((2, 4, 8, 8), float(k)) for k in range(4)]
    assert path_length(line) == pytest.approx(1)
    corner = [torch.tensor([[0.0, 0]]), torch.tensor([[3.0, 0]]), torch.tensor([[3.0, 4]])]
    assert path_length(corner) == pytest.approx(7 / 5)
    half = [torch.tensor([[math.cos(a), math.sin(a)]]) for a in torch.linspace(0, math.pi, 200).tolist()]
    assert path_length(half) == pytest.approx(math.pi / 2, rel=1e-3)
    assert path_length([torch.cat([a, a]) for a in corner]) == pytest.approx(7 / 5)


def test_compute_is_counted():
    """The transformer's products one by one: forward, and twice as much backward."""
    c = after_the_unet.SMALL_DIT
    patches = (8 // c.patch_size) ** 2
    tokens, d, numbers = 32 + patches, c.dim, c.channels * c.patch_size**2
    block = tokens * (4 * d * d + 8 * d * d + 2 * tokens * d) + 6 * d * d
    total = patches * numbers * d * 2 + 32 * c.context_dim * d + 2 * d * d + c.layers * block + 2 * d * d
    assert training_flop(ARMS[3]) == pytest.approx(3 * 2 * total, rel=1e-6)
    assert training_flop(ARMS[0]) == training_flop(ARMS[1]) == training_flop(ARMS[2]) > 0


def test_the_networks_are_alike_in_size():
    sizes = [sum(p.numel() for p in build(arm).parameters()) for arm in ARMS]
    assert [type(build(arm)) for arm in ARMS] == [UNet, UNet, FlowUNet, DiT] and max(sizes) < 2 * min(sizes), sizes


def test_flow_weights_make_a_noise_loss_that_of_a_flow():
    """For errors at some noise levels alone, against the flow's loss itself at a million times of its own."""
    t = logit_normal(1_000_000, torch.Generator().manual_seed(0)).double()
    sigma, own = t / (1 - t), SCHEDULE.sigma.double()
    flow, noise = [], []
    for low, high in ((0.1, 0.2), (0.2, 0.5), (0.5, 1), (1, 3), (3, 8), (8, 14)):
        flow.append(((sigma > low) & (sigma < high)).double().mul((1 + sigma) ** 2).mean())    # of an error 1 in eps
        noise.append((flow_weights(SCHEDULE) * ((own > low) & (own < high))).mean())
    factor = torch.tensor(noise) / torch.tensor(flow)
    torch.testing.assert_close(factor, factor.mean().expand(6), rtol=0.05, atol=0)
    assert flow_weights(SCHEDULE).mean() == pytest.approx(1)


def test_each_way_of_sampling_is_the_one_it_says():
    def predict(x: Tensor, t: Tensor) -> Tensor:
        return 0.3 * x + 0.1

    x = torch.randn(2, 4, 8, 8)
    bridged = velocity_from_eps(predict, SCHEDULE)
    for predicts, sampler, expected in (
            ("noise", "ddim", ddim(predict, x, SCHEDULE, timesteps(3, spacing="trailing"))),
            ("noise", "flow_euler", flow_euler(bridged, x, flow_levels(3))),
            ("velocity", "flow_euler", flow_euler(predict, x, flow_levels(3)))):
        predict.predicts = predicts
        assert torch.equal(last_x(sample(predict, x, sampler, 3)), last_x(expected))


@pytest.mark.slow
def test_the_judge_knows_the_shipped_model_from_a_deaf_one(judge):
    """As a diffusion model and, without another training, as a flow model."""
    unet = LatentDiffusion.from_pretrained(DATA / "tiny-worlds").unet
    for sampler in ("ddim", "flow_euler"):
        accuracy, all_right, length = judge(unet, sampler, 4.0, 8)
        assert accuracy > 0.9 and all_right > 0.6, (sampler, accuracy, all_right)
        assert math.isnan(length) == (sampler == "ddim") and not length < 1
    accuracy, all_right, length = judge(build(ARMS[3]), "flow_euler", 4.0, 1)    # untrained: it answers 0
    assert accuracy < 0.6 and all_right < 0.2


def test_the_shipped_transformer_draws_what_it_is_told(judge):
    """Nearly as well as the card says, on a few prompts; deaf to its words, it guesses."""
    model = load_dit(DATA / "dit")
    accuracy, all_right, length = judge(model, "flow_euler", 4.0, 8)
    assert accuracy > 0.9 and all_right > 0.6 and 1 < length < 1.3, (accuracy, all_right, length)
    torch.nn.init.zeros_(model.context_in.weight)
    assert judge(model, "flow_euler", 4.0, 8)[0] < 0.6


@pytest.mark.parametrize("arm", ARMS)
def test_each_arm_minimises_what_it_says(arm, judge, small, monkeypatch):
    """Every draw for a network that already knows the answer: its loss is 0 at the right target alone."""
    caught = {}
    monkeypatch.setattr(after_the_unet, "train", lambda network, loss_fn, config: caught.update(
        network=network, loss_fn=loss_fn, config=config) or iter(()))
    monkeypatch.setattr(after_the_unet, "tqdm", lambda steps, *_, **__: steps)
    zero, seen = torch.zeros(4, 4, 8, 8), []
    monkeypatch.setattr(after_the_unet, "pick_pairs", lambda *_: (zero, torch.zeros(4, 32, 128)))
    with pytest.raises(UnboundLocalError):    # of a training without steps
        after_the_unet.train_arm(arm, 3, OPTIONS, judge)

    def knows(z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """With data that are 0 the noise is the sample over its rate, and so is the velocity."""
        seen.append(t)
        rate = (1 - SCHEDULE.alpha_bar[t]).sqrt() if "noise" in arm else t
        return z / rate[:, None, None, None]

    assert caught["loss_fn"](knows, torch.Generator().manual_seed(0))["loss"] < 1e-8
    assert seen[0].is_floating_point() == ("velocity" in arm) and caught["config"].seed == 3
    assert isinstance(caught["network"], DiT if "transformer" in arm else UNet)
    if "noise" in arm:
        stressed = flow_weights(SCHEDULE) if arm == "U-Net, noise, flow's times" else loss_weights(SCHEDULE)
        monkeypatch.setattr(after_the_unet, "noise_loss", lambda *given: given[4])
        assert torch.equal(caught["loss_fn"](knows, torch.Generator())["loss"], stressed)


@pytest.mark.slow
def test_the_command_spends_the_same_compute_and_does_not_train_twice(tmp_path, small, monkeypatch):
    begun = []
    monkeypatch.setattr(after_the_unet, "train", lambda *arguments: begun.append(0) or train(*arguments))
    options = ["--steps", "8", "--batch", "2", "--scenes", "12", "--count", "4", "--out", str(tmp_path), "--seeds", "0"]
    main(["after_the_unet", "--arms", ARMS[0], *options])
    main(["after_the_unet", *options])
    rows = read_table(tmp_path / "table.csv", Drawn)
    assert len(begun) == 4 and {row.arm for row in rows} == {*ARMS}
    spent = {arm: max(row.tflop for row in rows if row.arm == arm) for arm in ARMS}
    assert spent[ARMS[3]] == pytest.approx(spent[ARMS[0]], rel=0.1)
    assert spent[ARMS[0]] == spent[ARMS[1]] == spent[ARMS[2]]
    seen = {arm: sorted({row.latents for row in rows if row.arm == arm}) for arm in ARMS}
    assert seen[ARMS[0]] == [4, 8, 12, 16] and seen[ARMS[0]][-1] in seen[ARMS[3]] and len(seen[ARMS[3]]) == 5
    for arm in ARMS:
        last = [row[4:7] for row in rows if row.arm == arm and row.tflop == spent[arm]]
        expected = [(s, 4.0, n) for s in (["ddim"] if "noise" in arm else []) + ["flow_euler"] for n in (1, 2)]
        assert sorted(last) == sorted([*expected, ("flow_euler", 1.0, 2)])
    assert all(math.isnan(row.length) == (row.sampler == "ddim") for row in rows)
