"""The samplers against diffusers, and against data for which the perfect noise prediction is known."""

from __future__ import annotations

from functools import partial
from itertools import islice
from random import Random

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from torch import Tensor

from ldm_edu import samplers
from ldm_edu.samplers import SAMPLERS, SPACING, alpha_bar_at, ddim, ddpm, dpm_solver, euler
from ldm_edu.schedule import Schedule, cosine_schedule, linear_schedule, scaled_linear_schedule, timesteps

SPACINGS = ("leading", "trailing", "linspace")    # diffusers' names

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
          timestep_spacing="leading", steps_offset=1)
FEW, EVERY = (1, 2, 3, 7, 10, 30, 50), tuple(range(1, 51))
TOLERANCE, EXACTLY = 3e-5, 1e-10    # float32 against another order of operations; float64 against a formula
SCHEDULE = scaled_linear_schedule()
EXACT = Schedule(SCHEDULE.betas.double())
SCHEDULES = {"sd": SCHEDULE, "linear": linear_schedule(), "cosine": cosine_schedule(),
             "T = 12": linear_schedule(12, 0.1, 0.9), "T = 2": linear_schedule(2, 0.3, 0.6)}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


X_T = draw(2, 4, 6, 5)


def visited(sampler: str, steps: int, T: int = 1000, spacing: str | None = None, offset: int = 1) -> Tensor:
    """What diffusers' scheduler of that sampler visits with a spacing, by default its own."""
    if spacing == "linspace" and sampler in ("euler", "dpm_solver"):
        spacing = SPACING[sampler]
    if sampler == "dpm_solver" and spacing == "leading":
        return timesteps(steps + 1, T, spacing, offset)[:-1]
    return timesteps(steps, T, spacing or SPACING[sampler], offset)


def run(sampler, eps, x: Tensor, schedule: Schedule, steps: int, spacing: str | None = None, offset: int = 1,
        skip: int = 0, **options):
    levels = visited(sampler.__name__, steps, schedule.T, spacing, offset)
    return sampler(eps, x, schedule, levels[skip:], **options)


def model(x: Tensor, t: Tensor) -> Tensor:
    """A stand-in for a U-Net: bounded, not linear, different at each t."""
    return (1 + t / 1000) * (x - x.flip(1) / 2).tanh()


def diffusers_steps(scheduler, steps: int, told: bool = False, **options) -> list[Tensor]:
    """x after every step. At 1000 steps diffusers can only do without the offset.

    told: before each step of DDIM, T is set such that its t - T // steps is the t visited next.
    """
    scheduler.register_to_config(steps_offset=1 if steps < 1000 else 0)
    scheduler.set_timesteps(steps)
    visited = scheduler.timesteps.tolist()[:steps]    # with "trailing", one t of -1 follows for some
    x, result, generator = X_T, [], seeded(3)
    for t, following in zip(visited, [*visited[1:], -1]):
        if told:
            scheduler.register_to_config(num_train_timesteps=(t - following) * steps)
        x = scheduler.step(model(x, torch.tensor(t)), t, x, generator=generator, **options).prev_sample
        result.append(x)
    return [*result, generator.get_state()]


def our_steps(sampler, steps: int, spacing: str = "leading", **options) -> list[Tensor]:
    generator = seeded(3)
    steps = run(sampler, model, X_T, SCHEDULE, steps, spacing, generator=generator, **options)
    found = [step.x for step in steps]
    return [*found, generator.get_state()]


def worst_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest difference of an x over the x's root mean square, over all steps; infinite if the noise drawn differs."""
    (*found, drawn), (*expected, drawn_there) = found, expected
    pairs = zip(found, expected, strict=True)
    worst = max(((f - e).abs().max() / e.square().mean().sqrt()).item() for f, e in pairs)
    return worst if torch.equal(drawn, drawn_there) else float("inf")


def ddim_error(steps: int, spacing: str = "leading", eta: float = 0.0, told: bool = False) -> float:
    scheduler = DDIMScheduler(**SD | dict(timestep_spacing=spacing), set_alpha_to_one=False)
    return worst_error(our_steps(ddim, steps, spacing, eta=eta), diffusers_steps(scheduler, steps, told, eta=eta))


# ---- Equal to diffusers ----

@pytest.mark.parametrize("eta, steps", [(0.0, (*EVERY, 1000)), (0.5, (*FEW, 1000)), (1.0, EVERY)])
def test_ddim_equals_diffusers(parity, eta, steps):
    parity(f"ddim, eta = {eta:g}", "leading", "diffusers", steps, lambda n: ddim_error(n, eta=eta), TOLERANCE)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_ddpm_equals_diffusers(parity, spacing):
    def error(n: int) -> float:
        theirs = diffusers_steps(DDPMScheduler(**SD | dict(timestep_spacing=spacing)), n)
        return worst_error(our_steps(ddpm, n, spacing), theirs)
    steps = {"leading": (*EVERY, 1000), "trailing": EVERY, "linspace": EVERY[1:]}[spacing]    # one step: see timesteps
    parity("ddpm", spacing, "diffusers", steps, error, TOLERANCE)


# Elsewhere diffusers' DDIM steps to t - T // steps, and then tells the model another t.
SAME = {"trailing": (1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 1000), "linspace": (1000,)}


@pytest.mark.parametrize("spacing", SAME)
def test_ddim_equals_diffusers_where_that_tells_the_model_the_noise_level_of_x(parity, spacing):
    parity("ddim, eta = 0", spacing, "diffusers", SAME[spacing], lambda n: ddim_error(n, spacing), TOLERANCE)
    assert min(ddim_error(n, spacing) for n in (3, 7, 30, 49)) > 30 * TOLERANCE    # the difference that ddim documents


@pytest.mark.parametrize("spacing", SAME)
@pytest.mark.parametrize("eta, steps", [(0.0, EVERY[1:]), (1.0, FEW[1:])])
def test_ddim_equals_diffusers_told_where_each_step_leads(parity, spacing, eta, steps):
    parity(f"ddim, eta = {eta:g}", spacing, "diffusers, told the next t", steps,
           lambda n: ddim_error(n, spacing, eta, told=True), TOLERANCE)


FAST = {"euler": EulerDiscreteScheduler, "dpm_solver": DPMSolverMultistepScheduler}


def fast_error(sampler: str, steps: int, spacing: str = "linspace", skip: int = 0) -> float:
    """Over all steps from the same noise. diffusers' Euler keeps x / sqrt(alpha_bar), and says how far to scale noise.

    skip: begin there, with a picture that is noised so far.
    """
    config = {name: value for name, value in SD.items() if name != "clip_sample"}
    scheduler = FAST[sampler](**config | dict(timestep_spacing=spacing))
    scheduler.set_timesteps(steps)
    data, visits, x = draw(2, 4, 6, 5, seed=8), scheduler.timesteps[skip:], X_T * scheduler.init_noise_sigma
    if skip:
        scheduler.set_begin_index(skip)
        x = scheduler.add_noise(data, X_T, visits[:1].repeat(2))
    theirs, ours = [], []
    for t in visits:
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x).prev_sample
        sigma = scheduler.sigmas[scheduler.step_index]
        theirs.append(x / (sigma**2 + 1).sqrt() if sampler == "euler" else x)
    levels = visited(sampler, steps, spacing=spacing)[skip:]
    assert torch.equal(visits.to(torch.float64), levels.double())
    x = X_T if sampler == "dpm_solver" else samplers.start_from(0.0, X_T, SCHEDULE, levels)
    x = samplers.start_from(data, X_T, SCHEDULE, levels) if skip else x
    if spacing != "linspace":
        first = SCHEDULE.alpha_bar[visits[0].int()]
        x = (X_T if spacing == "leading" else (1 - first).sqrt() * X_T) if sampler == "euler" else X_T
    for step in run(SAMPLERS[sampler], model, x, SCHEDULE, steps, spacing, skip=skip):
        ours.append(step.x)
    return worst_error([*ours, torch.zeros(1)], [*theirs, torch.zeros(1)])


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("sampler", FAST)
def test_euler_and_dpm_solver_equal_diffusers(parity, sampler, spacing):
    """But for what `timesteps` says of one step of "linspace", and diffusers' t = -1 of some "trailing" ones."""
    steps = [n for n in (*EVERY, 100) if n > 1 or spacing != "linspace" or sampler == "dpm_solver"]
    parity(sampler, spacing, "diffusers", steps, lambda n: fast_error(sampler, n, spacing), TOLERANCE)


@pytest.mark.parametrize("sampler", FAST)
def test_begun_with_a_noised_picture_they_equal_diffusers(parity, sampler):
    pairs = {n: skip for n, skip in ((2, 1), (5, 1), (12, 7), (30, 29), (50, 21))}
    parity(f"{sampler}, from a picture", "linspace", "diffusers", pairs,
           lambda n: fast_error(sampler, n, skip=pairs[n]), TOLERANCE)


MISTAKES = {
    "levels rounded": ("euler", "alpha_bar_at", lambda schedule, t: schedule.alpha_bar[t.round().long()]),
    "start not scaled": ("euler", "start_from", lambda x_0, noise, *args: noise),
    "first order": ("dpm_solver", "dpm_solver", euler),
    "clock not logarithmic": ("dpm_solver", "_sigma", lambda a: ((1 - a) / a) ** 0.4),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_comparison_sees(monkeypatch, mistake):
    sampler, name, wrong = MISTAKES[mistake]
    assert fast_error(sampler, 12) < TOLERANCE
    if name in SAMPLERS:
        monkeypatch.setitem(SAMPLERS, name, wrong)
        monkeypatch.setattr(wrong, "__name__", name)    # visits the right levels
    else:
        monkeypatch.setattr(samplers, name, wrong)
    assert fast_error(sampler, 12) > 30 * TOLERANCE


@pytest.mark.parametrize("sampler, order", [(euler, 1), (dpm_solver, 2)])
def test_half_the_steps_cost_what_the_order_says(sampler, order):
    """For Gaussian data the flow keeps (x - mean_t) / std_t. Compared after three fifths of the steps: towards the end
    the steps in lambda are too unequal, and the last, to sigma = 0, is of first order."""
    def distance(n: int) -> float:
        a = alpha_bar_at(EXACT, visited(sampler.__name__, n))
        start, end, x_T = a[0], a[n * 3 // 5], draw(100).double()
        *_, step = islice(run(sampler, eps_of_gaussian(0.5, 1.5, EXACT), x_T, EXACT, n), n * 3 // 5)
        z = (x_T - start.sqrt() * 0.5) / (start * 1.5**2 + 1 - start).sqrt()
        return (step.x - end.sqrt() * 0.5 - (end * 1.5**2 + 1 - end).sqrt() * z).abs().max().item()

    errors = [distance(n) for n in (20, 40, 80)]
    ratios = [a / b for a, b in zip(errors, errors[1:])]
    assert all(0.7 * 2**order < ratio < 1.5 * 2**order for ratio in ratios), errors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ddpm_adds_the_same_noise_in_half_precision(dtype):
    """torch.randn draws other numbers in half precision. With a network that answers 0 only rounding is left."""
    def last(x: Tensor) -> Tensor:
        levels = timesteps(10)
        return [*ddpm(lambda x, t: 0 * x, x, SCHEDULE, levels, generator=seeded(1))][-1].x.float()

    whole, half = last(X_T), last(X_T.to(dtype))
    assert (whole - half).abs().mean() < 0.02 * whole.abs().mean() and not torch.equal(whole, half)


def test_the_comparison_sees_the_usual_mistakes(monkeypatch):
    theirs = diffusers_steps(DDIMScheduler(**SD, set_alpha_to_one=False), 10)
    theirs_ddpm = diffusers_steps(DDPMScheduler(**SD), 10)

    def error(**options) -> float:
        return worst_error(our_steps(ddim, 10, **options), theirs)

    def ddpm_error() -> float:
        return worst_error(our_steps(ddpm, 10), theirs_ddpm)

    assert error() < TOLERANCE and ddpm_error() < TOLERANCE
    assert error(offset=0) > 100 * TOLERANCE
    assert error(spacing="trailing") > 100 * TOLERANCE
    assert error(eta=0.01) == float("inf"), "it draws noise"
    monkeypatch.setattr(samplers, "_noise_like", lambda x, generator: 1.01 * torch.randn(x.shape, generator=generator))
    assert ddpm_error() > 100 * TOLERANCE


# ---- Closed forms ----

def eps_of_gaussian(mean: float, std: float, schedule: Schedule):
    """E[eps | x_t] for data N(mean, std²), with a = alpha_bar_t: (x - sqrt(a) mean) sqrt(1 - a) / v_t, where
    v_t = a std² + 1 - a."""
    def eps(x: Tensor, t: Tensor) -> Tensor:
        a = alpha_bar_at(schedule, t)
        return (1 - a).sqrt() * (x - a.sqrt() * mean) / (a * std**2 + 1 - a)
    return eps


@pytest.mark.parametrize("sampler, eta", [(ddim, 0.0), (ddim, 0.5), (ddim, 1.0), (ddpm, None)])
def test_mean_and_variance_after_n_steps_are_those_of_the_closed_form(parity, monkeypatch, sampler, eta):
    """For Gaussian data every step is affine in x_T and the noises drawn: probed one by one, they give the exact mean
    and variance of x after n steps, without a single random number.

    With d = x - sqrt(a) m a step says d_prev = rho d + s z; v = a std² + 1 - a. DDIM, from eq. 12 with E[eps | x]:
    rho = (sqrt(a prev) std² + sqrt((1 - a)(1 - prev - s²))) / v. DDPM, from jointly Gaussian x and x_prev:
    rho = sqrt(a / prev) v_prev / v. For both, s² is eta² times eq. 7's variance.
    """
    m, std, options = 0.5, 0.3, {} if eta is None else {"eta": eta}

    def probed(n: int, spacing: str) -> tuple[Tensor, Tensor]:
        """The mean and the variance after n steps from standard normal noise."""
        kicks = iter(torch.cat([torch.zeros(2, n), torch.eye(n)]).double().T)
        monkeypatch.setattr(samplers, "_noise_like", lambda x, generator: next(kicks))
        x_T = torch.zeros(2 + n).double()    # nothing; x_T = 1; the noise of step k = 1
        x_T[1] = 1
        *_, step = run(sampler, eps_of_gaussian(m, std, EXACT), x_T, EXACT, n, spacing=spacing, **options)
        return step.x[0], (step.x[1:] - step.x[0]).square().sum()

    def closed_form(n: int, spacing: str) -> tuple[Tensor, Tensor]:
        t = timesteps(n, spacing=spacing)
        levels = torch.cat([EXACT.alpha_bar[t], torch.ones(1) if eta is None else EXACT.alpha_bar[:1]])
        d, variance = -levels[0].sqrt() * m, torch.ones(()).double()
        for a, prev in zip(levels, levels[1:]):
            v, v_prev = a * std**2 + 1 - a, prev * std**2 + 1 - prev
            s2 = (1 if eta is None else eta**2) * (1 - prev) / (1 - a) * (1 - a / prev)
            rho = (a / prev).sqrt() * v_prev / v if eta is None else (
                (a * prev).sqrt() * std**2 + ((1 - a) * (1 - prev - s2)).sqrt()) / v
            d, variance = rho * d, rho**2 * variance + s2
        return levels[-1].sqrt() * m + d, variance

    def error(n: int, spacing: str) -> float:
        (mean, variance), (true_mean, true_variance) = probed(n, spacing), closed_form(n, spacing)
        return max((mean - true_mean).abs() / true_variance.sqrt(), (variance / true_variance - 1).abs()).item()

    name = "ddpm" if eta is None else f"ddim, eta = {eta:g}"
    parity(name, "all", "mean, variance in closed form", FEW, lambda n: max(error(n, s) for s in SPACINGS), EXACTLY)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_gaussian_data_is_reproduced(sampler):
    """N(0.5, 0.3²), from 10,000 draws of its own noisiest level, in 500 steps."""
    a = EXACT.alpha_bar[999]
    x_T = a.sqrt() * 0.5 + (a * 0.3**2 + 1 - a).sqrt() * draw(10_000).double()
    *_, step = run(sampler, eps_of_gaussian(0.5, 0.3, EXACT), x_T, EXACT, 500, generator=seeded(5))
    assert step.x.mean().item() == pytest.approx(0.5, abs=0.015)
    assert step.x.std().item() == pytest.approx(0.3, abs=0.015)


def test_ddpm_steps_to_the_conditional_mean_with_the_posterior_s_variance():
    """For data N(m, s²), x_t and x_prev are jointly Gaussian, and E[x_prev | x_t] needs no eps:
    mean_prev + sqrt(alpha) v_prev / v (x_t - mean_t), v = a s² + 1 - a. The variance is eq. 7's."""
    m, s, x, noise = 0.5, 0.3, draw(50).double(), seeded(6)
    levels = torch.tensor([*EXACT.alpha_bar[range(901, 0, -100)], 1.0], dtype=torch.float64)
    steps = run(ddpm, eps_of_gaussian(m, s, EXACT), x, EXACT, 10, generator=seeded(6))
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
        *_, step = run(ddim, eps_of_gaussian(0.5, 0.3, EXACT), x_T, EXACT, steps)
        start, end = a[1 + (steps - 1) * (1000 // steps)], a[0]
        z = (x_T - start.sqrt() * 0.5) / (start * 0.09 + 1 - start).sqrt()
        errors.append((step.x - end.sqrt() * 0.5 - (end * 0.09 + 1 - end).sqrt() * z).abs().max().item())
    assert errors[2] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.3) == errors[1] / errors[2]


def test_ddim_on_unit_gaussian_data_is_a_product_of_cosines():
    """eps = sqrt(1 - a) x: each step turns by the angle between (sqrt a, sqrt(1 - a)) and its successor."""
    x_T = draw(50).double()
    *_, step = run(ddim, eps_of_gaussian(0.0, 1.0, EXACT), x_T, EXACT, 20)
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

    first = timesteps(steps, spacing=spacing)[0]
    *_, step = run(ddim, eps, a[first].sqrt() * 0.5 + (1 - a[first]).sqrt() * z, EXACT, steps, spacing=spacing)
    assert len(seen) == steps and seen == sorted(seen, reverse=True)
    torch.testing.assert_close(step.x, a[0].sqrt() * 0.5 + (1 - a[0]).sqrt() * z, rtol=0, atol=1e-10)


def test_ddim_is_an_euler_step_in_sigma(parity):
    """With y = x / sqrt(a) and sigma = sqrt((1 - a) / a), eq. 12 is y + (sigma_prev - sigma) eps."""
    def error(n: int, spacing: str) -> float:
        visited, x, errors = [*timesteps(n, spacing=spacing).tolist(), 0], X_T.double(), []
        y = x / EXACT.alpha_bar[visited[0]].sqrt()
        for step, t, prev in zip(run(ddim, model, x, EXACT, n, spacing=spacing), visited, visited[1:]):
            y = y + (EXACT.sigma[prev] - EXACT.sigma[t]) * model(EXACT.alpha_bar[t].sqrt() * y, torch.tensor(t))
            expected = EXACT.alpha_bar[prev].sqrt() * y
            errors.append(((step.x - expected).abs().max() / expected.square().mean().sqrt()).item())
        return max(errors)

    parity("ddim, eta = 0", "all", "Euler steps in sigma", FEW, lambda n: max(error(n, s) for s in SPACINGS), EXACTLY)


def test_ddim_at_eta_one_is_ddpm_up_to_the_last_step():
    x_T = X_T.double()
    a = islice(run(ddim, model, x_T, EXACT, 25, eta=1.0, generator=seeded(7)), 24)
    b = islice(run(ddpm, model, x_T, EXACT, 25, generator=seeded(7)), 24)
    for step_a, step_b in zip(a, b, strict=True):
        torch.testing.assert_close(step_a.x, step_b.x, rtol=0, atol=1e-10)


# ---- Boundaries, and what holds for every schedule ----

@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("sampler, eta", [(ddim, 0.0), (ddim, 0.5), (ddim, 1.0), (ddpm, None)])
def test_one_step_or_t_or_any_number_in_between(sampler, eta, schedule):
    """Falling levels, the right number of them, the last one's prediction, nothing that is not finite."""
    random, T = Random(0), schedule.T
    for steps in (1, 2, 5, 6, T if T < 100 else 100, *(random.randint(1, min(T, 60)) for _ in range(6))):
        steps, x_T = min(steps, T), draw(random.choice((1, 2)), 3, seed=steps)
        options = {"spacing": random.choice(SPACINGS), "offset": random.choice((0, 1)), "generator": seeded(1)}
        found = list(run(sampler, model, x_T, schedule, steps, **options, **({} if eta is None else {"eta": eta})))
        levels = [step.t for step in found]
        assert len(levels) == steps and levels == sorted(set(levels), reverse=True)
        assert 0 <= levels[-1] and levels[0] < T
        assert all(step.x.isfinite().all() and step.x.shape == x_T.shape for step in found), (steps, options)
        if eta is None:    # alpha_bar = 1: nothing but the prediction is left, up to the floor of the variance
            torch.testing.assert_close(found[-1].x, found[-1].x0)
        elif levels[-1] == 0:    # alpha_bar_0 to alpha_bar_0: the last step leaves x as it is
            torch.testing.assert_close(found[-1].x, found[-2].x if steps > 1 else x_T)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_the_true_noise_leads_back_to_the_data(sampler):
    """If eps is the very noise in x_t, DDIM goes back along x_t, and both end in x_0 (DDIM: as it was at t = 0)."""
    for trial in range(20):
        random = Random(trial)
        name, spacing = random.choice(list(SCHEDULES)), random.choice(SPACINGS)
        schedule = Schedule(SCHEDULES[name].betas.double())
        steps = random.randint(1, min(12, schedule.T - (sampler is dpm_solver)))
        x0, noise = draw(2, 3, seed=trial).double(), draw(2, 3, seed=100 + trial).double()
        a = alpha_bar_at(schedule, visited(sampler.__name__, steps, schedule.T, spacing)[0])
        x_T = a.sqrt() * x0 + (1 - a).sqrt() * noise
        eps = partial(_true_noise, schedule, x0)
        *_, step = run(sampler, eps, x_T, schedule, steps, spacing=spacing)
        end = schedule.add_noise(x0, noise, 0) if sampler is ddim else x0
        torch.testing.assert_close(step.x, end, rtol=0, atol=1e-6, msg=f"{name}, {steps} steps, {spacing}")


def _true_noise(schedule: Schedule, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
    a = alpha_bar_at(schedule, t)
    return (x - a.sqrt() * x0) / (1 - a).sqrt()


def test_where_no_signal_is_left_rounding_makes_nothing_infinite():
    """The cosine schedule ends at alpha_bar = 2e-9; 1 - alpha_bar_prev - sigma² is then below zero for some steps."""
    for spacing, steps in (("trailing", 1), ("trailing", 5), ("linspace", 2), ("linspace", 6)):
        *_, step = run(ddim, model, X_T, SCHEDULES["cosine"], steps, eta=1.0, spacing=spacing, generator=seeded(0))
        assert step.x.isfinite().all()


def test_each_item_of_a_batch_goes_its_own_way():
    *_, both = run(ddim, model, X_T, SCHEDULE, 10)
    for i in range(2):
        *_, alone = run(ddim, model, X_T[i:i + 1], SCHEDULE, 10)
        torch.testing.assert_close(alone.x, both.x[i:i + 1])


def test_ddpm_draws_no_noise_at_t_0():
    def drawn(spacing: str) -> Tensor:
        list(run(ddpm, model, X_T, SCHEDULE, 5, spacing=spacing, generator=(generator := seeded(2))))
        return torch.randn(1, generator=generator)

    def after(draws: int) -> Tensor:
        generator = seeded(2)
        for _ in range(draws):
            torch.randn(X_T.shape, generator=generator)
        return torch.randn(1, generator=generator)

    assert torch.equal(drawn("leading"), after(5)) and torch.equal(drawn("linspace"), after(4))


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_short_schedule_never_tells_the_model_a_t_beyond_it(sampler):
    """A model trained on 1000 levels cannot notice: the sampler knows its noise levels only from the schedule."""
    most = 99 if sampler is dpm_solver else 100
    for spacing in SPACINGS:
        seen = [int(step.t) for step in run(sampler, lambda x, t: x, X_T, linear_schedule(100), most, spacing=spacing)]
        assert len(seen) == most and seen[0] == 99 and set(seen) <= set(range(100))


# ---- The generator protocol ----

@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_what_they_say(sampler, dtype):
    x_T = X_T.to(dtype).requires_grad_()
    steps = list(run(sampler, model, x_T, SCHEDULE, 10, generator=seeded(0)))
    visits = visited(sampler.__name__, 10)
    assert [step.t for step in steps] == visits.tolist()
    before = [x_T, *(step.x for step in steps)]
    for x, step in zip(before, steps):
        assert step.x.dtype == step.x0.dtype == step.eps.dtype == dtype and step.x.shape == x_T.shape
        assert not step.x.requires_grad
        a = alpha_bar_at(SCHEDULE, torch.tensor(step.t))
        torch.testing.assert_close(step.eps, model(x.detach(), torch.tensor(step.t)))
        torch.testing.assert_close(step.x0, (x.detach() - (1 - a).sqrt() * step.eps) / a.sqrt(), rtol=1e-5, atol=1e-5)


def test_only_what_is_asked_for_is_computed():
    calls = []

    def eps(x: Tensor, t: Tensor) -> Tensor:
        calls.append((t.shape, t.dtype))
        return model(x, t)

    assert len(list(islice(run(ddim, eps, X_T, SCHEDULE, 50), 3))) == 3
    assert calls == [((), torch.int64)] * 3
    generator = seeded(0)
    list(run(ddim, model, X_T, SCHEDULE, 5, generator=generator))
    assert torch.equal(generator.get_state(), seeded(0).get_state()), "eta = 0 must draw nothing"


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_the_caller_may_change_x_on_the_way(sampler):
    """With x replaced, it goes on from that; begun half-way, one without a memory does what it would have done."""
    whole = [step.x for step in run(sampler, model, X_T, SCHEDULE, 6, generator=seeded(0))]
    changed = []
    for step in run(sampler, model, draw(2, 4, 6, 5, seed=9), SCHEDULE, 6, generator=seeded(0)):
        if len(changed) < 3 and sampler is not dpm_solver or len(changed) == 0:
            step.x = whole[len(changed)]
        changed.append(step.x)
    if sampler is dpm_solver:    # the prediction before the change is still in its memory
        assert not torch.equal(changed[-1], whole[-1]) and torch.equal(changed[0], whole[0])
    else:
        torch.testing.assert_close(changed, whole)
    if sampler in (ddim, euler):
        late = [step.x for step in run(sampler, model, whole[1], SCHEDULE, 6, skip=2)]
        torch.testing.assert_close(late, whole[2:])


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_bad_eta_is_named(eta):
    with pytest.raises(ValueError, match=f"eta: got {eta}, expected a number from 0"):
        list(run(ddim, model, X_T, SCHEDULE, 5, eta=eta))
