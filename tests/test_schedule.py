"""The noise schedule against diffusers, the step-by-step chain and its own inverse."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from ldm_edu.schedule import Schedule, cosine_schedule, linear_schedule, scaled_linear_schedule, timesteps

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
          set_alpha_to_one=False, steps_offset=1)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- The process ----

@pytest.mark.parametrize("ours, theirs", [
    (scaled_linear_schedule(), DDIMScheduler(**SD)),
    (scaled_linear_schedule(100, 0.001, 0.02),
     DDIMScheduler(100, beta_start=0.001, beta_end=0.02, beta_schedule="scaled_linear")),
    (linear_schedule(), DDPMScheduler()),
    (cosine_schedule(), DDPMScheduler(beta_schedule="squaredcos_cap_v2")),
], ids=["sd", "sd 100", "linear", "cosine"])
def test_equals_diffusers(ours, theirs):
    torch.testing.assert_close(ours.betas, theirs.betas, rtol=0, atol=0)
    torch.testing.assert_close(ours.alpha_bar, theirs.alphas_cumprod, rtol=0, atol=0)
    x0, eps, t = draw(4, 3, 5, 5), draw(4, 3, 5, 5, seed=1), torch.tensor([0, 1, 50, ours.T - 1])
    torch.testing.assert_close(ours.add_noise(x0, eps, t), theirs.add_noise(x0, eps, t), rtol=0, atol=0)


def test_alpha_bar_is_what_a_chain_of_single_steps_leaves():
    schedule = Schedule(scaled_linear_schedule().betas.double())
    signal, variance = 1.0, 0.0
    for t, beta in enumerate(schedule.betas.tolist()):
        signal, variance = math.sqrt(1 - beta) * signal, (1 - beta) * variance + beta
        assert signal**2 == pytest.approx(schedule.alpha_bar[t].item(), rel=1e-12)
        assert variance == pytest.approx(1 - schedule.alpha_bar[t].item(), rel=1e-10)


@pytest.mark.parametrize("t", [0, 500, 999, torch.tensor(7), torch.tensor([0, 7, 999])], ids=str)
def test_noise_and_data_are_recovered(t):
    schedule = Schedule(scaled_linear_schedule().betas.double())
    x0, eps = draw(3, 4, 2, 6).double(), draw(3, 4, 2, 6, seed=1).double()
    x_t = schedule.add_noise(x0, eps, t)
    torch.testing.assert_close(schedule.x0_from_eps(x_t, eps, t), x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(schedule.eps_from_x0(x_t, x0, t), eps, rtol=0, atol=1e-12)


def test_each_item_of_a_batch_has_its_own_level():
    schedule, x0, eps, t = scaled_linear_schedule(), draw(3, 4, 2, 6), draw(3, 4, 2, 6, seed=1), [3, 300, 900]
    one_by_one = [schedule.add_noise(x0[i], eps[i], t[i]) for i in range(3)]
    torch.testing.assert_close(schedule.add_noise(x0, eps, torch.tensor(t)), torch.stack(one_by_one))


def test_snr_and_sigma_say_the_same():
    schedule, t = Schedule(scaled_linear_schedule().betas.double()), torch.arange(1000)
    torch.testing.assert_close(schedule.snr(t), schedule.sigma**-2)
    assert schedule.snr(999) < schedule.snr(0)
    assert schedule.sigma[-1].item() == pytest.approx(14.6146, abs=1e-4)    # SD v1's, as in k-diffusion


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_data_keeps_its_dtype(dtype):
    x = draw(2, 3).to(dtype)
    assert scaled_linear_schedule().add_noise(x, x, torch.tensor([1, 2])).dtype == dtype


# ---- Timesteps ----

@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_timesteps_equal_diffusers_for_every_number_of_steps(spacing):
    theirs = DDIMScheduler(**SD, timestep_spacing=spacing)
    for steps in range(1, 1001):
        theirs.set_timesteps(steps)
        ours, expected = timesteps(steps, spacing=spacing), theirs.timesteps
        if spacing == "trailing" and len(expected) > steps:    # diffusers adds a t of -1 to 62 of them
            assert expected[-1] == -1
            expected = expected[:-1]
        if spacing == "leading" and steps == 1000:             # diffusers starts at 1000, which is no level
            assert expected[0] == 1000
            expected = expected - 1
        if spacing == "linspace" and steps == 1:               # diffusers' single step is where there is no noise
            assert expected.tolist() == [0]
            expected = expected + 999
        assert torch.equal(ours, expected), f"{steps} steps"
        assert ours.dtype == torch.int64 and 0 <= ours.min() and ours.max() < 1000


def test_timesteps_by_hand():
    assert timesteps(4, 12).tolist() == [10, 7, 4, 1]
    assert timesteps(5, 12, offset=0).tolist() == [8, 6, 4, 2, 0]
    assert timesteps(4, 12, "trailing").tolist() == [11, 8, 5, 2]
    assert timesteps(4, 12, "linspace").tolist() == [11, 7, 4, 0]
    assert timesteps(3, 12, "fractional").tolist() == [11, 5.5, 0] and timesteps(1, 12, "fractional").tolist() == [11]
    assert timesteps(3, 12, "half-open").tolist() == [11, 7, 4] and timesteps(1, 12, "half-open").tolist() == [11]
    assert timesteps(12, 12).tolist() == timesteps(12, 12, "trailing").tolist() == list(range(11, -1, -1))
