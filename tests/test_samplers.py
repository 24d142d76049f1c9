"""The samplers against diffusers, and against data for which the perfect noise prediction is known."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from ldm_edu import samplers
from ldm_edu.samplers import SAMPLERS, ddim, ddpm
from ldm_edu.schedule import SPACINGS, Schedule, scaled_linear_schedule

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
          timestep_spacing="leading", steps_offset=1)
STEPS = (1, 2, 7, 10, 30, 50, 1000)
TOLERANCE = 3e-5
SCHEDULE = scaled_linear_schedule()
EXACT = Schedule(SCHEDULE.betas.double())


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


X_T = draw(2, 4, 6, 5)
MIX = draw(4, 4, seed=1) / 2


def model(x: Tensor, t: Tensor) -> Tensor:
    """A stand-in for a U-Net: bounded, not linear, different at each t."""
    return (1 + t / 1000) * torch.einsum("ij,bjhw->bihw", MIX.to(x), x).tanh()


def diffusers_steps(scheduler, steps: int, **options) -> list[Tensor]:
    """x after every step. At 1000 steps diffusers can only do without the offset."""
    scheduler.register_to_config(steps_offset=1 if steps < 1000 else 0)
    scheduler.set_timesteps(steps)
    x, result, generator = X_T, [], seeded(3)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t), t, x, generator=generator, **options).prev_sample
        result.append(x)
    return result


def worst_error(found: list[Tensor], expected: list[Tensor]) -> float:
    pairs = zip(found, expected, strict=True)
    return max(((f - e).abs().max() / e.square().mean().sqrt()).item() for f, e in pairs)


# ---- Equal to diffusers ----

@pytest.mark.parametrize("eta", [0, 0.5, 1])
@pytest.mark.parametrize("steps", STEPS)
def test_ddim_equals_diffusers(steps, eta):
    expected = diffusers_steps(DDIMScheduler(**SD, set_alpha_to_one=False), steps, eta=eta)
    found = [step.x for step in ddim(model, X_T, SCHEDULE, steps, eta=eta, generator=seeded(3))]
    assert worst_error(found, expected) < TOLERANCE


@pytest.mark.parametrize("steps", STEPS)
def test_ddpm_equals_diffusers(steps):
    expected = diffusers_steps(DDPMScheduler(**SD), steps)
    found = [step.x for step in ddpm(model, X_T, SCHEDULE, steps, generator=seeded(3))]
    assert worst_error(found, expected) < TOLERANCE


@pytest.mark.parametrize("spacing, steps", [("trailing", 10), ("trailing", 50), ("linspace", 1000)])
def test_other_spacings_equal_diffusers_where_it_tells_the_model_the_truth(spacing, steps):
    scheduler = DDIMScheduler(**SD | dict(timestep_spacing=spacing), set_alpha_to_one=False)
    expected = diffusers_steps(scheduler, steps)
    found = [step.x for step in ddim(model, X_T, SCHEDULE, steps, spacing=spacing)]
    assert worst_error(found, expected) < TOLERANCE


def test_the_comparison_sees_the_usual_mistakes(monkeypatch):
    theirs = diffusers_steps(DDIMScheduler(**SD, set_alpha_to_one=False), 10)
    theirs_ddpm = diffusers_steps(DDPMScheduler(**SD), 10)

    def ddim_error(**options) -> float:
        return worst_error([step.x for step in ddim(model, X_T, SCHEDULE, 10, **options)], theirs)

    def ddpm_error(seed: int = 3) -> float:
        steps = ddpm(model, X_T, SCHEDULE, 10, generator=seeded(seed))
        return worst_error([step.x for step in steps], theirs_ddpm)

    assert ddim_error() < TOLERANCE and ddpm_error() < TOLERANCE
    assert ddim_error(offset=0) > 100 * TOLERANCE
    assert ddim_error(spacing="trailing") > 100 * TOLERANCE
    assert ddpm_error(seed=4) > 100 * TOLERANCE
    levels = samplers._levels
    swapped = {1.0: SCHEDULE.alpha_bar[:1], SCHEDULE.alpha_bar[0].item(): torch.ones(1)}
    monkeypatch.setattr(samplers, "_levels", lambda *args: levels(*args[:-1], swapped[args[-1].item()]))
    assert ddim_error() > 30 * TOLERANCE and ddpm_error() > 30 * TOLERANCE    # with each other's last level


# ---- Closed forms ----

def eps_of_gaussian(mean: float, std: float, schedule: Schedule):
    """E[eps | x_t] for data N(mean, std²), with a = alpha_bar_t: (x - sqrt(a) mean) sqrt(1 - a) / v_t, where
    v_t = a std² + 1 - a."""
    def eps(x: Tensor, t: Tensor) -> Tensor:
        a = schedule.alpha_bar[t]
        return (1 - a).sqrt() * (x - a.sqrt() * mean) / (a * std**2 + 1 - a)
    return eps


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_gaussian_data_is_reproduced(sampler):
    """N(0.5, 0.3²), from 10,000 draws of its own noisiest level, in 500 steps."""
    a = EXACT.alpha_bar[999]
    x_T = a.sqrt() * 0.5 + (a * 0.3**2 + 1 - a).sqrt() * draw(10_000).double()
    *_, step = sampler(eps_of_gaussian(0.5, 0.3, EXACT), x_T, EXACT, 500, generator=seeded(5))
    assert step.x.mean().item() == pytest.approx(0.5, abs=0.015)
    assert step.x.std().item() == pytest.approx(0.3, abs=0.015)


def test_ddpm_steps_to_the_conditional_mean_with_the_posterior_s_variance():
    """For data N(m, s²), x_t and x_prev are jointly Gaussian, and E[x_prev | x_t] needs no eps:
    mean_prev + sqrt(alpha) v_prev / v (x_t - mean_t), v = a s² + 1 - a. The variance is eq. 7's."""
    m, s, x, noise = 0.5, 0.3, draw(50).double(), seeded(6)
    levels = torch.tensor([*EXACT.alpha_bar[range(901, 0, -100)], 1.0], dtype=torch.float64)
    steps = ddpm(eps_of_gaussian(m, s, EXACT), x, EXACT, 10, generator=seeded(6))
    for step, a, prev in zip(steps, levels, levels[1:]):
        v, v_prev = (level * s**2 + 1 - level for level in (a, prev))
        mean = prev.sqrt() * m + (a / prev).sqrt() * v_prev / v * (x - a.sqrt() * m)
        std = ((1 - prev) / (1 - a) * (1 - a / prev)).sqrt()
        x = mean + std * torch.randn(50, generator=noise, dtype=torch.float64)
        torch.testing.assert_close(step.x, x, rtol=0, atol=1e-9)
    assert (step.x - step.x0).std().item() == pytest.approx(1e-10, rel=0.3)    # the floor


def test_ddim_approaches_the_exact_flow_at_first_order():
    """For Gaussian data the flow keeps (x - mean_t) / std_t; half the steps, twice the distance to it."""
    x_T, a = draw(100).double(), EXACT.alpha_bar
    errors = []
    for steps in (125, 250, 500):
        *_, step = ddim(eps_of_gaussian(0.5, 0.3, EXACT), x_T, EXACT, steps)
        start, end = a[1 + (steps - 1) * (1000 // steps)], a[0]
        z = (x_T - start.sqrt() * 0.5) / (start * 0.09 + 1 - start).sqrt()
        errors.append((step.x - end.sqrt() * 0.5 - (end * 0.09 + 1 - end).sqrt() * z).abs().max().item())
    assert errors[2] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.3) == errors[1] / errors[2]


def test_ddim_on_unit_gaussian_data_is_a_product_of_cosines():
    """eps = sqrt(1 - a) x: each step turns by the angle between (sqrt a, sqrt(1 - a)) and its successor."""
    x_T = draw(50).double()
    *_, step = ddim(eps_of_gaussian(0.0, 1.0, EXACT), x_T, EXACT, 20)
    angles = torch.acos(EXACT.alpha_bar[[*range(951, 0, -50), 0]].sqrt())
    torch.testing.assert_close(step.x, x_T * torch.cos(angles.diff()).prod(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [7, 10, 30, 61])
def test_the_model_is_always_told_the_noise_level_of_x(steps, spacing):
    """For data that is one point, DDIM keeps x on sqrt(a) mean + sqrt(1 - a) z, whichever t it visits."""
    z, a = draw(50).double(), EXACT.alpha_bar
    exact, seen = eps_of_gaussian(0.5, 0.0, EXACT), []

    def eps(x: Tensor, t: Tensor) -> Tensor:
        torch.testing.assert_close(x, a[t].sqrt() * 0.5 + (1 - a[t]).sqrt() * z, rtol=0, atol=1e-10)
        seen.append(t.item())
        return exact(x, t)

    first = samplers.timesteps(steps, spacing=spacing)[0]
    *_, step = ddim(eps, a[first].sqrt() * 0.5 + (1 - a[first]).sqrt() * z, EXACT, steps, spacing=spacing)
    assert len(seen) == steps and seen == sorted(seen, reverse=True)
    torch.testing.assert_close(step.x, a[0].sqrt() * 0.5 + (1 - a[0]).sqrt() * z, rtol=0, atol=1e-10)


def test_ddim_is_an_euler_step_in_sigma():
    """With y = x / sqrt(a) and sigma = sqrt((1 - a) / a), eq. 12 is y + (sigma_prev - sigma) eps."""
    visited = [*range(901, 0, -100), 0]
    y, x = X_T.double() / EXACT.alpha_bar[901].sqrt(), X_T.double()
    for step, t, prev in zip(ddim(model, x, EXACT, 10), visited, visited[1:]):
        y = y + (EXACT.sigma[prev] - EXACT.sigma[t]) * model(EXACT.alpha_bar[t].sqrt() * y, torch.tensor(t))
        torch.testing.assert_close(step.x, EXACT.alpha_bar[prev].sqrt() * y, rtol=0, atol=1e-10)


def test_ddim_at_eta_one_is_ddpm_up_to_the_last_step():
    x_T = X_T.double()
    a = islice(ddim(model, x_T, EXACT, 25, eta=1.0, generator=seeded(7)), 24)
    b = islice(ddpm(model, x_T, EXACT, 25, generator=seeded(7)), 24)
    for step_a, step_b in zip(a, b, strict=True):
        torch.testing.assert_close(step_a.x, step_b.x, rtol=0, atol=1e-10)


# ---- The generator protocol ----

@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_what_they_say(sampler, dtype):
    x_T = X_T.to(dtype).requires_grad_()
    steps = list(sampler(model, x_T, SCHEDULE, 10, generator=seeded(0)))
    assert [step.t for step in steps] == list(range(901, 0, -100))
    before = [x_T, *(step.x for step in steps)]
    for x, step in zip(before, steps):
        assert step.x.dtype == step.x0.dtype == step.eps.dtype == dtype and step.x.shape == x_T.shape
        assert not step.x.requires_grad
        torch.testing.assert_close(step.eps, model(x.detach(), torch.tensor(step.t)))
        torch.testing.assert_close(step.x0, SCHEDULE.x0_from_eps(x.detach(), step.eps, step.t))


def test_only_what_is_asked_for_is_computed():
    calls = []

    def eps(x: Tensor, t: Tensor) -> Tensor:
        calls.append((t.shape, t.dtype))
        return model(x, t)

    assert len(list(islice(ddim(eps, X_T, SCHEDULE, 50), 3))) == 3
    assert calls == [((), torch.int64)] * 3
    generator = seeded(0)
    list(ddim(model, X_T, SCHEDULE, 5, generator=generator))
    assert torch.equal(generator.get_state(), seeded(0).get_state()), "eta = 0 must draw nothing"


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("steps", [0, 1001, 2.5])
def test_bad_steps_are_named(sampler, steps):
    with pytest.raises(ValueError, match=f"steps: got {steps}, expected an integer from 1 to 1000"):
        list(sampler(model, X_T, SCHEDULE, steps))


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_bad_eta_is_named(eta):
    with pytest.raises(ValueError, match=f"eta: got {eta}, expected a number from 0"):
        list(ddim(model, X_T, SCHEDULE, 5, eta=eta))
