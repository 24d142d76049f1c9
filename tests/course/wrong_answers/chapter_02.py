"""Wrong answers to the exercises of chapter 02, each with a part of its hint."""
import torch
import torch.nn.functional as F

# --- 02.1

def tilde(beta, alpha_bar_prev):
    return beta * (1 - alpha_bar_prev) / (1 - (1 - beta) * alpha_bar_prev)


def mu_tilde(x0, x_t, beta, alpha_bar_prev):
    whole = 1 - (1 - beta) * alpha_bar_prev
    return (alpha_bar_prev.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - alpha_bar_prev) * x_t) / whole


def takes_the_forward_variance(x0, x_t, beta, alpha_bar_prev):
    return mu_tilde(x0, x_t, beta, alpha_bar_prev), beta


def returns_the_deviation(x0, x_t, beta, alpha_bar_prev):
    return mu_tilde(x0, x_t, beta, alpha_bar_prev), tilde(beta, alpha_bar_prev).sqrt()


def adds_precisions(x0, x_t, beta, alpha_bar_prev):
    precision = (1 - beta) / beta + 1 / (1 - alpha_bar_prev)
    weighted = torch.sqrt(1 - beta) / beta * x_t + torch.sqrt(alpha_bar_prev) / (1 - alpha_bar_prev) * x0
    return weighted / precision, 1 / precision


def divides_by_nothing(x0, x_t, beta, alpha_bar_prev):
    a = float(alpha_bar_prev)
    return mu_tilde(x0, x_t, beta, alpha_bar_prev), 1 / ((1 - float(beta)) / float(beta) + 1 / (1 - a))


def takes_the_level_of_t(x0, x_t, beta, alpha_bar_prev):
    alpha_bar = (1 - beta) * alpha_bar_prev
    return mu_tilde(x0, x_t, beta, alpha_bar), tilde(beta, alpha_bar)


def swaps_x0_and_x_t(x0, x_t, beta, alpha_bar_prev):
    return mu_tilde(x_t, x0, beta, alpha_bar_prev), tilde(beta, alpha_bar_prev)


def forgets_the_roots(x0, x_t, beta, alpha_bar_prev):
    whole = 1 - (1 - beta) * alpha_bar_prev
    mean = alpha_bar_prev * beta / whole * x0 + (1 - beta) * (1 - alpha_bar_prev) / whole * x_t
    return mean, tilde(beta, alpha_bar_prev)


def returns_the_mean_alone(x0, x_t, beta, alpha_bar_prev):
    return mu_tilde(x0, x_t, beta, alpha_bar_prev)


# --- 02.2

def rates(t, betas):
    return 1 - betas[t], torch.prod(1 - betas[:t + 1])


def adds_the_noise(x_t, eps, t, betas):
    alpha, alpha_bar = rates(t, betas)
    return (x_t + (1 - alpha) / torch.sqrt(1 - alpha_bar) * eps) / torch.sqrt(alpha)


def jumps_to_x0(x_t, eps, t, betas):
    _, alpha_bar = rates(t, betas)
    return (x_t - torch.sqrt(1 - alpha_bar) * eps) / torch.sqrt(alpha_bar)


def takes_the_noise_of_one_step(x_t, eps, t, betas):
    return (x_t - betas[t].sqrt() * eps) / (1 - betas[t]).sqrt()


def forgets_a_root(x_t, eps, t, betas):
    alpha, alpha_bar = rates(t, betas)
    return (x_t - betas[t] / (1 - alpha_bar) * eps) / alpha.sqrt()


def forgets_to_grow(x_t, eps, t, betas):
    return x_t - betas[t] / (1 - rates(t, betas)[1]).sqrt() * eps


def grows_by_every_step(x_t, eps, t, betas):
    _, alpha_bar = rates(t, betas)
    return (x_t - betas[t] / (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()


def takes_the_level_before(x_t, eps, t, betas):
    alpha_bars = torch.cumprod(1 - betas, dim=0)
    return (x_t - betas[t] / (1 - alpha_bars[t - 1]).sqrt() * eps) / (1 - betas[t]).sqrt()


def averages(x_t, eps, t, betas):
    alpha, alpha_bar = rates(t, betas)
    return ((x_t - betas[t] / (1 - alpha_bar).sqrt() * eps) / alpha.sqrt()).mean(0)


def works_in_place(x_t, eps, t, betas):
    alpha, alpha_bar = rates(t, betas)
    x_t -= betas[t] / (1 - alpha_bar).sqrt() * eps
    return x_t / alpha.sqrt()


# --- 02.3

def step(x, e, before, after, signal=None):
    x0 = (x - (1 - before) ** 0.5 * e) / before**0.5
    return (after if signal is None else signal) ** 0.5 * x0 + (1 - after) ** 0.5 * e


def keeps_both(eps, x, alpha_bar, levels):
    for t, t_next in zip(levels, levels[1:]):
        x = step(x, eps(x, t), alpha_bar[t], alpha_bar[t_next], signal=alpha_bar[t])
    return x


def stops_early(eps, x, alpha_bar, levels):
    for t, t_next in zip(levels, levels[1:]):
        x = step(x, eps(x, t), alpha_bar[t], alpha_bar[t_next])
    return x


def scales_for_level_t(eps, x, alpha_bar, levels):
    for t, end in zip(levels, torch.cat([alpha_bar[levels[1:]], torch.ones(1)])):
        x = step(x, eps(x, t), alpha_bar[t], end, signal=alpha_bar[t])
    return x


def asks_ahead(eps, x, alpha_bar, levels):
    ends = torch.cat([alpha_bar[levels[1:]], torch.ones(1)])
    for t, ahead, end in zip(levels, levels[1:] + levels[-1:], ends):
        x = step(x, eps(x, ahead), alpha_bar[t], end)
    return x


def ends_at_level_0(eps, x, alpha_bar, levels):
    for t, t_next in zip(levels, levels[1:] + [0]):
        x = step(x, eps(x, t), alpha_bar[t], alpha_bar[t_next])
    return x


def draws_again(eps, x, alpha_bar, levels):
    for t, end in zip(levels, [*alpha_bar[levels[1:]], torch.tensor(1.0)]):
        x0 = (x - (1 - alpha_bar[t]).sqrt() * eps(x, t)) / alpha_bar[t].sqrt()
        x = end.sqrt() * x0 + (1 - end).sqrt() * torch.randn_like(x)
    return x


def subtracts_twice(eps, x, alpha_bar, levels):
    for t, end in zip(levels, [*alpha_bar[levels[1:]], torch.tensor(1.0)]):
        e = eps(x, t)
        x = end.sqrt() * (x - (1 - alpha_bar[t]).sqrt() * e) / alpha_bar[t].sqrt() - (1 - end).sqrt() * e
    return x


def forgets_a_root_on_the_way(eps, x, alpha_bar, levels):
    for t, end in zip(levels, [*alpha_bar[levels[1:]], torch.tensor(1.0)]):
        e = eps(x, t)
        x = end.sqrt() * (x - (1 - alpha_bar[t]).sqrt() * e) / alpha_bar[t].sqrt() + (1 - end) * e
    return x


def keeps_every_step(eps, x, alpha_bar, levels):
    return [x] + [stops_early(eps, x, alpha_bar, levels[:n]) for n in range(len(levels))]


# --- 02.4

def made(x0, t, eps, alpha_bar):
    a = alpha_bar[t].unsqueeze(1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps, a.sqrt() * eps - (1 - a).sqrt() * x0


def sums(model, x0, t, eps, alpha_bar):
    x_t, v = made(x0, t, eps, alpha_bar)
    return F.mse_loss(model(x_t, t), v, reduction="sum")


def takes_a_root(model, x0, t, eps, alpha_bar):
    x_t, v = made(x0, t, eps, alpha_bar)
    return torch.sqrt(F.mse_loss(model(x_t, t), v))


def squares_the_mean(model, x0, t, eps, alpha_bar):
    x_t, v = made(x0, t, eps, alpha_bar)
    return (model(x_t, t) - v).mean() ** 2


def asks_for_eps(model, x0, t, eps, alpha_bar):
    return F.mse_loss(model(made(x0, t, eps, alpha_bar)[0], t), eps)


def turns_v_round(model, x0, t, eps, alpha_bar):
    x_t, v = made(x0, t, eps, alpha_bar)
    return F.mse_loss(model(x_t, t), -v)


def forgets_the_roots_of_v(model, x0, t, eps, alpha_bar):
    a = alpha_bar[t][:, None]
    return F.mse_loss(model(made(x0, t, eps, alpha_bar)[0], t), a * eps - (1 - a) * x0)


def draws_its_own_noise(model, x0, t, eps, alpha_bar):
    x_t, v = made(x0, t, torch.randn(eps.shape), alpha_bar)
    return F.mse_loss(model(x_t, t), v)


def is_one_level_off(model, x0, t, eps, alpha_bar):
    x_t, v = made(x0, t, eps, alpha_bar)
    return F.mse_loss(model(x_t, t + 1), v)


def detaches(model, x0, t, eps, alpha_bar):
    x_t, v = made(x0, t, eps, alpha_bar)
    return F.mse_loss(model(x_t, t).detach(), v)


def keeps_the_rows(model, x0, t, eps, alpha_bar):
    x_t, v = made(x0, t, eps, alpha_bar)
    return ((model(x_t, t) - v) ** 2).mean(dim=1)


WRONG = {
    "02.1": [
        (takes_the_forward_variance, "which narrows it"),
        (returns_the_deviation, "You return the standard deviation"),
        (adds_precisions, "Equation 7 stays finite there"),
        (divides_by_nothing, "stops with ZeroDivisionError"),
        (takes_the_level_of_t, "alpha_bar at t - 1"),
        (swaps_x0_and_x_t, "x_0 and x_t are swapped"),
        (forgets_the_roots, "take the roots"),
        (returns_the_mean_alone, "Expected 2 results, got a tensor of shape (5, 2)"),
    ],
    "02.2": [
        (adds_the_noise, "x_t contains it already"),
        (jumps_to_x0, "One step back removes a small part"),
        (takes_the_noise_of_one_step, "belongs to the noise that the last step added"),
        (forgets_a_root, "needs its root"),
        (forgets_to_grow, "The last step shrank the signal"),
        (grows_by_every_step, "Undo the shrinking of one step"),
        (takes_the_level_before, "You use ᾱ at t - 1"),
        (averages, "Expected a tensor of shape (2, 3, 4), got a tensor of shape (3, 4)"),
        (works_in_place, "changes its arguments"),
    ],
    "02.3": [
        (keeps_both, "both mistakes still"),
        (stops_early, "noise is still in the samples"),
        (scales_for_level_t, "scaled for level t, not for the next"),
        (asks_ahead, "The values are off"),
        (ends_at_level_0, "where a hundredth of the noise is left"),
        (draws_again, "You add fresh noise"),
        (subtracts_twice, "not subtracted again"),
        (forgets_a_root_on_the_way, "The values are off"),
        (keeps_every_step, "Expected a tensor of shape (6, 2), got a list of 4"),
    ],
    "02.4": [
        (sums, "depends on the batch size"),
        (takes_a_root, "without a root"),
        (squares_the_mean, "errors can cancel"),
        (asks_for_eps, "The model predicts v, not eps"),
        (turns_v_round, "The sign of v is wrong"),
        (forgets_the_roots_of_v, "need their roots"),
        (draws_its_own_noise, "You draw noise of your own"),
        (is_one_level_off, "another t than that of x_t"),
        (detaches, "no gradient passes"),
        (keeps_the_rows, "Expected a number, got a tensor of shape (6,)"),
    ],
}
