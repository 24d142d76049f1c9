"""The losses of diffusion by hand, their weights over t, how t is drawn, and guidance."""

import pytest
import torch
from torch import Tensor, nn

from ldm_edu.conditioning import guided
from ldm_edu.losses import l_simple, latent_loss, loss_weights, noise_loss, stratified
from ldm_edu.schedule import Schedule, cosine_schedule, linear_schedule, scaled_linear_schedule
from ldm_edu.unet import UNet, UNetConfig


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_l_simple_by_hand():
    schedule, x0, draw = cosine_schedule(), randn(3, 2), torch.Generator().manual_seed(1)
    t, eps = torch.randint(1000, (3,), generator=draw), torch.randn(3, 2, generator=draw)
    total = 0.0
    for i in range(3):
        a = float(schedule.alpha_bar[t[i]])
        for j in range(2):
            x_t = a**0.5 * x0[i, j] + (1 - a) ** 0.5 * eps[i, j]
            total += float(0.5 * x_t + t[i] / 1000 - eps[i, j]) ** 2
    found = l_simple(lambda x, t: 0.5 * x + t[:, None] / 1000, x0, schedule, torch.Generator().manual_seed(1))
    assert float(found) == pytest.approx(total / 6, rel=1e-5)


class Affine(nn.Module):
    """eps = w x + t / 1000 + the mean of the context: a model whose loss can be written down."""

    def __init__(self, w: float = 0.5):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.w * x + (t / 1000 + context.mean((1, 2)))[:, None, None, None]


def test_the_loss_by_hand():
    """ᾱ is 0.64 at t = 0 and 0.36 at t = 1, so that √ᾱ and √(1 - ᾱ) are 0.8 and 0.6, then 0.6 and 0.8."""
    schedule = Schedule(torch.tensor([0.36, 1 - 0.36 / 0.64]))
    z_0, eps = torch.tensor([1.0, -1.0, 0.0, 2.0]), torch.tensor([1.0, 0.0, -1.0, 0.5])
    z_0, eps = z_0.view(1, 1, 2, 2).expand(2, 1, 2, 2), eps.view(1, 1, 2, 2).expand(2, 1, 2, 2)
    context = torch.tensor([0.0, 0.25]).view(2, 1, 1).expand(2, 3, 2)
    found = latent_loss(Affine(), z_0, context, torch.tensor([0, 1]), eps, schedule)
    # z_t: (1.4, -0.8, -0.6, 1.9) and (1.4, -0.6, -0.8, 1.6); guesses: half of it, plus 0, or plus 0.001 + 0.25
    errors = [(-0.3, -0.4, 0.7, 0.45), (-0.049, -0.049, 0.851, 0.551)]
    expected = torch.tensor([sum(e**2 for e in row) / 4 for row in errors])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_loss_of_the_true_noise_is_zero_and_of_silence_one():
    z_0, eps, t = randn(64, 4, 8, 8), randn(64, 4, 8, 8, seed=1), torch.linspace(0, 999, 64).long()
    context, schedule = torch.zeros(64, 1, 8), scaled_linear_schedule()
    told = latent_loss(lambda x, t, c: eps, z_0, context, t, eps, schedule)
    silent = latent_loss(lambda x, t, c: torch.zeros_like(x), z_0, context, t, eps, schedule)
    assert told.shape == (64,) and told.max() == 0 and abs(silent.mean() - 1) < 0.05


def test_gradients_reach_model_and_condition_and_no_pixel():
    """A latent made without a graph, as a cached one is, has no way back to the picture, and the loss asks for none."""
    model, context = Affine(), torch.zeros(2, 3, 4, requires_grad=True)
    z_0, eps = randn(2, 4, 8, 8), randn(2, 4, 8, 8, seed=1)
    latent_loss(model, z_0, context, torch.tensor([5, 900]), eps, scaled_linear_schedule()).mean().backward()
    assert model.w.grad.abs() > 0 and context.grad.abs().min() > 0 and z_0.grad is None


@pytest.mark.parametrize("schedule", [scaled_linear_schedule(), linear_schedule(T=200)], ids=["scaled", "linear"])
def test_emphasis_makes_the_loss_that_of_v(schedule):
    """v = √ᾱ ε - √(1 - ᾱ) x_0 of the truth and of a guess, both from the same x_t: by brute force at all t."""
    eps, guess = randn(3, 4, 2, 2), randn(3, 4, 2, 2, seed=1)
    ratio, x_0 = [], randn(3, 4, 2, 2, seed=2)
    for t in range(schedule.T):
        x_t = schedule.add_noise(x_0, eps, t)
        a, s = schedule.alpha_bar[t].sqrt(), (1 - schedule.alpha_bar[t]).sqrt()
        v = [a * e - s * schedule.x0_from_eps(x_t, e, t) for e in (eps, guess)]
        ratio.append((v[0] - v[1]).square().mean() / (eps - guess).square().mean())
    weight = loss_weights(schedule, most=1e9)
    ratio = torch.stack(ratio)
    torch.testing.assert_close(weight, ratio / ratio.mean(), rtol=2e-3, atol=0)


def test_emphasis_is_cut_and_has_mean_one():
    schedule = scaled_linear_schedule()
    for most in (1.5, 10.0, 100.0):
        weight = loss_weights(schedule, most)
        assert abs(weight.mean() - 1) < 1e-5 and (weight.diff() >= 0).all()
        assert abs(weight.max() / weight[0] - most * schedule.alpha_bar[0]) < 1e-3 * most
    assert (1 / schedule.alpha_bar).max() > 100, "the default cuts something"


def test_stratified_draws_one_of_each_part():
    for count, T in ((8, 1000), (5, 20), (1000, 1000)):
        t = stratified(count, T, torch.Generator().manual_seed(3))
        assert t.dtype == torch.int64 and t.shape == (count,)
        assert sorted((t * count // T).tolist()) == list(range(count))
    firsts = [stratified(8, 8, torch.Generator().manual_seed(seed))[0].item() for seed in range(400)]
    assert all(firsts.count(t) > 20 for t in range(8))    # each place in a batch meets every t
    one = [stratified(1, 10, torch.Generator().manual_seed(seed)).item() for seed in range(400)]
    assert set(one) == set(range(10))


def test_stratified_never_rounds_up_to_T(monkeypatch):
    """The largest float32 below 1 as every draw: (63 + it) / 64 is 1 in float32, and a run of hours ended there."""
    largest = 1 - 2**-24
    monkeypatch.setattr(torch, "rand", lambda count, generator, device: torch.full((count,), largest))
    t = stratified(64, 1000, torch.Generator())
    assert t.max() == 999 and t.unique().numel() == 64


def test_stratified_is_uniform_with_less_variance_than_draws():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([stratified(8, 40, generator) for _ in range(4000)])
    shares = torch.bincount(drawn.flatten(), minlength=40) / drawn.numel()
    assert (shares * 40 - 1).abs().max() < 0.12
    free = torch.randint(40, drawn.shape, generator=generator)
    assert drawn.float().mean(1).var() < 0.05 * free.float().mean(1).var()


def test_noise_loss_weighs_each_latent_at_its_own_t():
    """Of a network that always guesses 0 the error is the noise drawn; the weights are those of the t drawn."""
    schedule, met = scaled_linear_schedule(), []

    def blind(z_t, t, context):
        met.append(t)
        return torch.zeros_like(z_t)

    z_0, weight = randn(16, 4, 2, 2), torch.arange(1000.0)
    loss = noise_loss(blind, z_0, None, schedule, weight, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(met[0], t := stratified(16, 1000, generator))
    eps = torch.randn(z_0.shape, generator=generator)
    torch.testing.assert_close(loss, sum(float(k) * e.square().mean() for k, e in zip(t, eps)) / 16)


# ---- Guidance ----

def small_unet() -> UNet:
    torch.manual_seed(0)
    unet = UNet(UNetConfig(channels=(16, 32), attention=(True, True), layers=1, heads=2, context_dim=12, groups=8))
    for p in unet.parameters():
        if not p.any():    # what starts at zero would hide everything
            nn.init.normal_(p, std=0.1)
    return unet.eval()


@pytest.mark.parametrize("tokens", [7, 3], ids=["as long", "shorter"])
@pytest.mark.parametrize("batch", [1, 2])
def test_guidance_equals_two_calls(tokens, batch):
    """Of contexts as long as each other, and of a map's many states against the empty prompt's few."""
    unet, x, t = small_unet(), randn(2, 4, 8, 8), torch.tensor(500)
    cond, uncond = randn(2, 7, 12, seed=1), randn(batch, tokens, 12, seed=2)
    with torch.no_grad():
        e_c, e_u = unet(x, t, cond), unet(x, t, uncond.expand(2, -1, -1))
        assert (e_c - e_u).abs().max() > 0.01
        for scale in (1.5, 4.0):
            found = guided(unet, cond, uncond, scale)(x, t)
            torch.testing.assert_close(found, (1 - scale) * e_u + scale * e_c, rtol=0, atol=5e-5)
