"""Rectified flow against diffusers, against closed forms of Gaussian data, and against diffusion at another clock."""
import json
import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from ldm_edu.conditioning import guided
from ldm_edu.dit import DiT, DiTConfig
from ldm_edu.flow import (
    eps_from_velocity,
    flow_euler,
    flow_levels,
    flow_loss,
    logit_normal,
    velocity_from_eps,
)
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.samplers import SAMPLERS, alpha_bar_at, last_x, sampler_levels
from ldm_edu.schedule import scaled_linear_schedule

SCHEDULE = scaled_linear_schedule()
MEAN, STD = 0.7, 0.4    # of the data in one dimension, where all is known in closed form


def randn(*shape: int, seed: int = 0, dtype=torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def curved(x: Tensor, t: Tensor) -> Tensor:
    """A stand-in for a network, which depends on the sample and on its time, or timestep."""
    return torch.tanh(1.3 * x) + torch.sin(3 * t) * x.flip(-1)


def gaussian_eps(z: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """E[eps | signal x_0 + noise eps = z] for x_0 ~ N(MEAN, STD²)."""
    return noise * (z - signal * MEAN) / ((signal * STD) ** 2 + noise**2)


def gaussian_velocity(z: Tensor, t: Tensor) -> Tensor:
    """E[eps - z_0 | z_t = z] for the same data."""
    eps = gaussian_eps(z, 1 - t, t)
    variance = ((1 - t) * STD) ** 2 + t**2
    return eps - (MEAN + (1 - t) * STD**2 * (z - (1 - t) * MEAN) / variance)


def diffusion_eps(x: Tensor, timestep: Tensor) -> Tensor:
    """E[eps | x_t = x] for the same data, under the schedule of Stable Diffusion."""
    alpha_bar = alpha_bar_at(SCHEDULE, timestep)
    return gaussian_eps(x, alpha_bar.sqrt(), (1 - alpha_bar).sqrt())


# ---- The sampler ----

@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_the_sampler_steps_as_diffusers_does(steps, shift):
    """FLUX's pipeline hands these sigmas to the scheduler, which shifts them."""
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    levels, x = flow_levels(steps, shift), randn(2, 4, 8, 8)
    torch.testing.assert_close(levels, theirs.sigmas[:-1], rtol=1e-6, atol=1e-6)
    expected, walk = x, flow_euler(curved, x, levels)
    for time, step in zip(theirs.timesteps, walk, strict=True):
        expected = theirs.step(curved(expected, time / 1000), time, expected).prev_sample
        torch.testing.assert_close(step.x, expected, rtol=1e-5, atol=1e-5)


def test_a_straight_flow_arrives_in_one_step():
    """All data is one point: the velocity along each path is constant, and any number of steps gives the same."""
    point = randn(4, 8, 8, seed=3, dtype=torch.float64)
    to_point = lambda z, t: (z - point) / t  # noqa: E731
    x = randn(2, 4, 8, 8, dtype=torch.float64)
    for steps in (1, 5):
        *_, last = flow_euler(to_point, x, flow_levels(steps).double())
        torch.testing.assert_close(last.x, point.expand_as(x), rtol=1e-6, atol=1e-6)


def test_many_steps_carry_noise_to_the_data():
    """The flow between Gaussians is affine, and carries the quantiles of the noise to those of the data."""
    noise = torch.linspace(-2, 2, 9)[:, None]
    found = last_x(flow_euler(gaussian_velocity, noise, flow_levels(1000)))
    torch.testing.assert_close(found, MEAN + STD * noise, rtol=0, atol=3e-3)


def test_a_step_names_both_ends_of_its_line():
    z_0, eps = randn(2, 4, 8, 8, seed=1), randn(2, 4, 8, 8, seed=2)
    t = torch.tensor([0.6])
    step = next(flow_euler(lambda z, t: eps - z_0, 0.4 * z_0 + 0.6 * eps, t))
    assert step.t == pytest.approx(0.6)
    for found, expected in ((step.x0, z_0), (step.x, z_0), (step.eps, eps)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_caller_may_replace_x():
    """As with the other samplers: it goes on from what it finds."""
    x, walked = randn(1, 4, 8, 8), []
    for step in flow_euler(lambda z, t: walked.append(z) or torch.zeros_like(z), x, flow_levels(2)):
        step.x = 2 * step.x
    assert torch.equal(walked[1], 2 * x)


@pytest.mark.parametrize("levels", [sampler_levels("ddim", 4), sampler_levels("euler", 4), torch.tensor([1.0, 0.0])])
def test_timesteps_of_diffusion_are_refused(levels):
    with pytest.raises(ValueError, match="levels: got .*expected times t"):
        next(flow_euler(curved, randn(1, 4, 8, 8), levels))


# ---- The loss, and how t is drawn ----

class Recorder(nn.Module):
    """Predicts what it is given, and remembers what it was told."""

    def __init__(self, v: Tensor):
        super().__init__()
        self.v, self.told = nn.Parameter(v), None

    def forward(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        self.told = z, t, context
        return self.v


def test_the_loss_of_each_latent_by_hand():
    z_0, eps, context = randn(3, 4, 8, 8), randn(3, 4, 8, 8, seed=1), randn(3, 32, 128)
    t, model = torch.tensor([0.0, 0.25, 1.0]), Recorder(torch.zeros(3, 4, 8, 8))
    loss = flow_loss(model, z_0, context, t, eps)
    z_t, told, heard = model.told
    for i, share in enumerate((0.0, 0.25, 1.0)):
        torch.testing.assert_close(z_t[i], z_0[i] * (1 - share) + eps[i] * share)
        assert told[i] == share
        assert loss[i].item() == pytest.approx(((eps[i] - z_0[i]).numpy() ** 2).mean(), rel=1e-5)
    assert heard is context
    loss.mean().backward()
    torch.testing.assert_close(model.v.grad, -2 * (eps - z_0) / z_0.numel())
    assert flow_loss(Recorder(eps - z_0), z_0, context, t, eps).abs().max() < 1e-10


def test_times_are_logit_normal_and_stratified():
    """Of 4000 draws the share below each quantile is exact, up to one draw; so are the ends."""
    t = logit_normal(4000, torch.Generator().manual_seed(0))
    assert t.min() >= 0 and t.max() <= 1
    for z in (-2, -1, -0.3, 0, 0.5, 1.5):
        expected = 0.5 * (1 + math.erf(z / math.sqrt(2)))
        assert (t < 1 / (1 + math.exp(-z))).float().mean().item() == pytest.approx(expected, abs=1.5 / 4000)
    assert not torch.equal(t, t.sort().values)
    assert torch.equal(t, logit_normal(4000, torch.Generator().manual_seed(0)))


# ---- One family at two clocks ----

@pytest.mark.parametrize("t", [0.05, 0.3, 0.5, 0.8, 0.93])
def test_a_diffusion_model_is_a_flow_model(t):
    """The closed-form eps of Gaussian data becomes its closed-form velocity, within the schedule."""
    z = torch.linspace(-2, 2, 9)[:, None]
    found = velocity_from_eps(diffusion_eps, SCHEDULE)(z, torch.tensor(t))
    torch.testing.assert_close(found, gaussian_velocity(z, torch.tensor(t)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("timestep", [5, 200, 500, 999, 333.25])
def test_a_flow_model_is_a_diffusion_model(timestep):
    x = torch.linspace(-2, 2, 9)[:, None]
    found = eps_from_velocity(gaussian_velocity, SCHEDULE)(x, torch.tensor(timestep))
    torch.testing.assert_close(found, diffusion_eps(x, torch.tensor(timestep)), rtol=1e-3, atol=1e-3)


def test_there_and_back_is_the_identity():
    slow = lambda x, timestep: curved(x, timestep / 1000)  # noqa: E731
    there = velocity_from_eps(slow, SCHEDULE)
    x = randn(2, 4, 8, 8)
    for timestep in (100, 700, 950):
        back = eps_from_velocity(there, SCHEDULE)(x, torch.tensor(timestep))
        torch.testing.assert_close(back, slow(x, torch.tensor(float(timestep))), rtol=1e-3, atol=2e-3)


def test_pure_noise_lies_beyond_the_schedule():
    """At t = 1 the model is told its last timestep, and the velocity stays finite."""
    told = []
    velocity = velocity_from_eps(lambda x, t: told.append(t.item()) or 0.99 * x, SCHEDULE)
    assert velocity(randn(1, 4, 8, 8), torch.tensor(1.0)).isfinite().all() and told == [999]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_flow_model_serves_every_sampler(sampler):
    noise = torch.linspace(-2, 2, 9)[:, None]
    eps, levels = eps_from_velocity(gaussian_velocity, SCHEDULE), sampler_levels(sampler, 200)
    found = last_x(SAMPLERS[sampler](eps, noise, SCHEDULE, levels, generator=torch.Generator().manual_seed(0)))
    if sampler == "ddpm":    # random
        assert (found - MEAN).abs().max() < 4 * STD
    else:
        torch.testing.assert_close(found, MEAN + STD * noise, rtol=0, atol=0.05)


# ---- What does not fit together ----

class Network(nn.Module):
    """A network of either family that answers zero."""

    def __init__(self, predicts: str | None):
        super().__init__()
        if predicts:
            self.predicts = predicts

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_noise_model_is_refused_by_the_sampler_of_flows(scale):
    """Unless the bridge makes it one; a flow model is taken."""
    cond, uncond, x = randn(2, 3, 8), randn(1, 3, 8), randn(2, 4, 8, 8)
    for predicts in (None, "noise"):
        eps = guided(Network(predicts), cond, uncond, scale)
        with pytest.raises(ValueError, match="velocity: got a model that predicts noise.*velocity_from_eps"):
            next(flow_euler(eps, x, flow_levels(2)))
        last_x(flow_euler(velocity_from_eps(eps, SCHEDULE), x, flow_levels(2)))
    last_x(flow_euler(guided(Network("velocity"), cond, uncond, scale), x, flow_levels(2)))


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_flow_model_is_refused_by_samplers_of_noise(sampler, scale):
    """Unless the bridge makes it one."""
    velocity = guided(DiT(DiTConfig(dim=32, layers=1)), randn(2, 3, 128), randn(1, 3, 128), scale)
    levels, x = sampler_levels(sampler, 3), randn(2, 4, 8, 8)
    with pytest.raises(ValueError, match="t: got .*expected a time from 0 to 1.*eps_from_velocity"):
        next(SAMPLERS[sampler](velocity, x, SCHEDULE, levels))
    last_x(SAMPLERS[sampler](eps_from_velocity(velocity, SCHEDULE), x, SCHEDULE, levels))


def test_a_folder_of_stable_diffusion_3_is_refused_by_its_name(tmp_path):
    """And not for the files of a U-Net, which such a folder does not have."""
    (tmp_path / "scheduler").mkdir()
    index = {"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3Transformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    config = dict(FlowMatchEulerDiscreteScheduler(shift=3.0).config)
    (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="with a StableDiffusion3Pipeline, expected a StableDiffusionPipeline"):
        LatentDiffusion.from_pretrained(tmp_path)
