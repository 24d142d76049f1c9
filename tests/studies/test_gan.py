"""The GAN against closed forms, finite differences and an optimiser by hand; the study's recorded runs are complete."""
import itertools
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ldm_edu.schedule import cosine_schedule
from ldm_edu.studies import gan_versus_diffusion as study
from ldm_edu.studies.__main__ import main
from ldm_edu.studies.gan import (
    GRID,
    SPREAD,
    GanConfig,
    LittleDiscriminator,
    LittleGenerator,
    PlaneDenoiser,
    PlaneDiscriminator,
    PlaneGenerator,
    discriminator_loss,
    draw_grid,
    generator_loss,
    gradient_penalty,
    score_grid,
    train_gan,
    wavy_points,
)
from ldm_edu.studies.gan_versus_diffusion import (
    FOLDER,
    MODELS,
    ROWS,
    Operations,
    begin_run,
    contact,
    load_contact,
    load_rows,
    score_worlds,
)
from ldm_edu.studies.pixel_unet import little_world
from ldm_edu.support.tables import read_table, write_table


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_the_grid():
    """25 centres of variance 1 together; points of the stated spread, every mode as often."""
    assert len({tuple(c) for c in GRID.tolist()}) == 25
    x = draw_grid(50_000, seeded(0))
    assert x.std().item() == pytest.approx(1, abs=0.01)
    offset = x - GRID[torch.cdist(x, GRID).argmin(1)]
    assert offset.std().item() == pytest.approx(SPREAD, rel=0.02)
    score = score_grid(x)
    assert score.modes == 25 and score.good == pytest.approx(1 - math.exp(-4.5), abs=0.002)    # 3 sigma in the plane
    assert (score.counts - 2000 * score.good).abs().max() < 200


def test_scores_by_a_loop():
    x = torch.cat([GRID[3] + 0.5 * SPREAD * torch.randn(200, 2, generator=seeded(0)).clamp(-2, 2),
                   GRID[7].expand(3, 2), GRID[8].expand(2, 2), GRID[0] + torch.tensor([4.0 * SPREAD, 0]).expand(95, 2)])
    counts = [sum(math.dist(p, c) < 3 * SPREAD for p in x.tolist()) for c in GRID.tolist()]
    score = score_grid(x)
    assert score.counts.tolist() == counts and score.good == pytest.approx(205 / 300)
    assert score.modes == sum(c >= 300 / 25 / 5 for c in counts) == 2                         # 2.4 points are needed
    assert score_grid(torch.full((250, 2), torch.nan))[:2] == (0, 0)


def test_losses_are_cross_entropies():
    real, fake = 3 * torch.randn(2, 7, 1, generator=seeded(0))
    bce = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(7, 1), torch.zeros(7, 1)
    torch.testing.assert_close(discriminator_loss(real, fake), bce(real, ones) + bce(fake, zeros))
    torch.testing.assert_close(generator_loss(fake), bce(fake, ones))


def test_gradient_penalty_by_finite_differences():
    """Also that it can be trained: a step against its gradient lowers it."""
    torch.manual_seed(0)
    discriminator = PlaneDiscriminator(waves=True).double()
    x = draw_grid(6, seeded(0)).double().requires_grad_()
    penalty = gradient_penalty(discriminator(x), x)
    step, slopes = 1e-5, torch.zeros(6, 2, dtype=torch.double)
    with torch.no_grad():
        for i in range(2):
            shift = torch.zeros(2).double()
            shift[i] = step
            slopes[:, i] = ((discriminator(x + shift) - discriminator(x - shift)) / (2 * step)).squeeze()
    torch.testing.assert_close(penalty, slopes.square().sum(1).mean(), rtol=1e-6, atol=0)
    penalty.backward()
    with torch.no_grad():
        for p in discriminator.parameters():
            p -= 0 if p.grad is None else 1e-3 * p.grad
    assert gradient_penalty(discriminator(x), x) < penalty


class Scaled(nn.Module):
    """A generator or a discriminator of one number, as in Mescheder et al.'s example."""

    noise = 1

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x):
        return self.value * x


@pytest.mark.parametrize("r1", [0.0, 0.8])
def test_three_steps_by_hand(r1):
    """Both networks are one number each, so the penalty is psi²; the generator meets the discriminator that moved."""
    theta, psi = (torch.tensor(value, requires_grad=True) for value in (0.5, -0.2))
    adam = {p: torch.optim.Adam([p], 0.1, (0.3, 0.99)) for p in (theta, psi)}
    average = 0.5
    for step in range(3):
        rng = seeded(3 * 2**32 + step)
        x = 2 + torch.randn(4, 1, generator=rng)
        noise = torch.randn(2, 4, 1, generator=rng)
        made = theta.detach() * noise[0]
        pairs = ((1, x), (-1, made))
        real_loss, fake_loss = (-torch.log(torch.sigmoid(sign * psi * of)).mean() for sign, of in pairs)
        psi.grad, = torch.autograd.grad(real_loss + fake_loss + r1 / 2 * psi**2, psi)
        adam[psi].step()
        g_loss = -torch.log(torch.sigmoid(psi.detach() * theta * noise[1])).mean()
        theta.grad, = torch.autograd.grad(g_loss, theta)
        adam[theta].step()
        decay = min(0.15, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * theta.item()

    generator, discriminator = Scaled(0.5), Scaled(-0.2)
    config = GanConfig(3, batch=4, lr=0.1, momentum=0.3, r1=r1, ema=0.15, seed=3)
    *_, progress = train_gan(generator, discriminator, lambda n, rng: 2 + torch.randn(n, 1, generator=rng), config)
    torch.testing.assert_close((generator.value.data, discriminator.value.data), (theta.data, psi.data))
    assert progress.ema.value.item() == pytest.approx(average, rel=1e-5)
    assert progress.step == 3 and discriminator.value.requires_grad
    assert progress.discriminator_loss == pytest.approx((real_loss + fake_loss).item(), rel=1e-5)
    assert progress.generator_loss == pytest.approx(g_loss.item(), rel=1e-5)


def test_the_same_seed_trains_the_same():
    def trained(seed):
        *_, last = begin_run("plane", "GAN", seed, 3)
        return last.ema[0].weight

    assert torch.equal(trained(1), trained(1)) and not torch.equal(trained(1), trained(2))


def test_networks():
    x = draw_grid(5, seeded(0))
    denoiser = PlaneDenoiser(cosine_schedule())
    assert PlaneGenerator()(torch.zeros(5, 2)).shape == (5, 2) and denoiser(x, torch.tensor(3)).shape == (5, 2)
    assert PlaneDiscriminator()(x).shape == PlaneDiscriminator(waves=True)(x).shape == (5, 1)
    torch.testing.assert_close(denoiser(x, torch.tensor(999)), x, atol=0.01, rtol=0.01)
    waves = [[x[i, 0], x[i, 1], *(f(2**k * x[i, j]) for f in (torch.sin, torch.cos) for k in range(4) for j in (0, 1))]
             for i in range(5)]
    torch.testing.assert_close(wavy_points(x), torch.tensor(waves))
    made = LittleGenerator()(torch.randn(4, 32, generator=seeded(0)))
    assert made.shape == (4, 3, 16, 16) and made.abs().max() <= 1 and LittleDiscriminator()(made).shape == (4, 1)


def test_operations_counts_as_torch_does():
    net, x = LittleDiscriminator(), torch.zeros(2, 3, 16, 16)
    with FlopCounterMode(display=False) as theirs:
        net(x).sum().backward()
    with Operations() as ours:
        net(x).sum().backward()
    assert ours.flops == theirs.get_total_flops() > 0


def test_scores_of_worlds():
    """The world itself is perfect; one picture for ever is good and covers one."""
    pictures = little_world()
    seen = study.features(pictures)
    perfect = score_worlds(pictures, pictures, seen)
    assert perfect["covered"] == perfect["good"] == perfect["precision"] == perfect["coverage"] == 1
    assert perfect["frechet"] < 1e-3
    stuck = score_worlds(pictures[7].expand(240, -1, -1, -1), pictures, seen)
    assert stuck["covered"] == 1 / 240 and stuck["good"] == 1 and stuck["coverage"] < 0.1 and stuck["frechet"] > 1
    assert score_worlds(torch.zeros(240, 3, 16, 16), pictures, seen)["good"] == 0


def test_pictures_are_kept(tmp_path):
    pictures = little_world()[:5]
    contact(pictures, tmp_path / "five.png")
    torch.testing.assert_close(load_contact(tmp_path / "five.png"), pictures, atol=1 / 255, rtol=0)


def test_command_line(tmp_path, monkeypatch, capsys):
    """A short run leaves what can be read; what is there is not done again."""
    monkeypatch.setitem(MODELS, "plane", ("GAN", "diffusion"))
    monkeypatch.setitem(MODELS, "worlds", ("GAN",))
    monkeypatch.setattr(study, "SEEDS", 1)
    monkeypatch.setattr(study, "LOOKS", {"plane": 2, "worlds": 1})
    arguments = ["gan_versus_diffusion", "--share", "0.002", "--out", str(tmp_path / "new")]
    main(arguments)
    rows = load_rows("plane", tmp_path / "new")
    assert sorted({row["model"] for row in rows}) == ["GAN", "diffusion"] and len(rows) == 4
    assert all(sum(row["counts"]) == round(2500 * row["good"]) for row in rows)
    assert len(load_rows("worlds", tmp_path / "new")) == 1
    assert load_contact(tmp_path / "new/worlds-0-0.png").shape == (24, 3, 16, 16)
    capsys.readouterr()
    main(arguments)
    assert capsys.readouterr().out == "" and load_rows("plane", tmp_path / "new") == rows


def test_the_four_gans_of_the_plane_are_two_discriminators_with_and_without_penalty(monkeypatch):
    asked = []
    monkeypatch.setattr(study.gan, "train_gan", lambda _, net, real, config: asked.append((net.waves, config.r1 > 0)))
    for model in MODELS["plane"][:4]:
        begin_run("plane", model, 0, 1)
    assert asked == [(False, True), (False, False), (True, True), (True, False)]


def test_recorded_runs_are_complete_and_equal_in_budget_and_survive_rewriting(tmp_path):
    for name, models in MODELS.items():
        rows = load_rows(name)
        runs = {(row["model"], row["seed"]) for row in rows}
        assert runs == set(itertools.product(models, range(study.SEEDS)))
        assert len(rows) == len(runs) * study.LOOKS[name]
        for run in runs:
            most = max(row["gflop"] for row in rows if (row["model"], row["seed"]) == run)
            assert most == pytest.approx(study.BUDGET[name], rel=0.01)
        write_table(tmp_path / f"{name}.csv", read_table(FOLDER / f"{name}.csv", ROWS[name]))
        assert load_rows(name, tmp_path) == rows


def test_a_loss_that_is_not_finite_is_reported():
    broken = PlaneGenerator()
    nn.init.constant_(broken[0].bias, torch.nan)
    with pytest.raises(FloatingPointError, match="losses are nan and nan at step 0"):
        next(train_gan(broken, PlaneDiscriminator(), draw_grid, GanConfig(1)))
