"""Wrong answers to the exercises of chapter 01, each with a part of its hint."""
import math

import torch

# --- 01.1

def forgets_the_root_of_beta(x, eps, beta):
    return math.sqrt(1 - beta) * x + beta * eps


def shrinks_by_the_variance(x, eps, beta):
    alpha = 1 - beta
    return alpha * x + math.sqrt(beta) * eps


def has_no_roots(x, eps, beta):
    return x - beta * x + beta * eps


def only_adds(x, eps, beta):
    noise = eps * beta**0.5
    return x + noise


def swaps_the_rates(x, eps, beta):
    return math.sqrt(beta) * x + math.sqrt(1 - beta) * eps


def lets_the_rates_sum_to_one(x, eps, beta):
    rate = math.sqrt(beta)
    return torch.lerp(x, eps, rate)


def works_in_place(x, eps, beta):
    x *= math.sqrt(1 - beta)
    x += math.sqrt(beta) * eps
    return x


def averages(x, eps, beta):
    return (math.sqrt(1 - beta) * x + math.sqrt(beta) * eps).mean()


# --- 01.2

def lines_up_with_the_columns(x0, eps, t, alpha_bar):
    a = alpha_bar.gather(0, t)
    return a**0.5 * x0 + (1 - a) ** 0.5 * eps


def forgets_the_root_of_the_noise(x0, eps, t, alpha_bar):
    a = alpha_bar[t][:, None, None, None]
    return torch.sqrt(a) * x0 + (1 - a) * eps


def mixes_variances(x0, eps, t, alpha_bar):
    return torch.stack([torch.lerp(e, x, float(a)) for x, e, a in zip(x0, eps, alpha_bar[t])])


def swaps_signal_and_noise(x0, eps, t, alpha_bar):
    a = alpha_bar[t].view(-1, 1, 1, 1)
    return (1 - a).sqrt() * x0 + a.sqrt() * eps


def takes_one_step_only(x0, eps, t, alpha_bar):
    before = torch.cat([torch.ones(1), alpha_bar])
    alpha = (alpha_bar[t] / before[t]).view(-1, 1, 1, 1)
    alpha[t == 0] = alpha_bar[0]
    return alpha.sqrt() * x0 + (1 - alpha).sqrt() * eps


def counts_from_one(x0, eps, t, alpha_bar):
    a = torch.stack([alpha_bar[max(int(i) - 1, 0)] for i in t]).view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def takes_the_first_t_for_all(x0, eps, t, alpha_bar):
    a = alpha_bar[t[0]]
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def returns_the_noise_as_well(x0, eps, t, alpha_bar):
    a = alpha_bar[t].view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps, eps


def adds_an_axis(x0, eps, t, alpha_bar):
    a = alpha_bar[t].view(-1, 1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


# --- 01.3

def starts_from_clean(x_s, eps, s, t, alpha_bar):
    signal, noise = alpha_bar[t] ** 0.5, (1 - alpha_bar[t]) ** 0.5
    return signal * x_s + noise * eps


def adds_all_the_noise_again(x_s, eps, s, t, alpha_bar):
    return (alpha_bar[t] ** 0.5 / alpha_bar[s] ** 0.5) * x_s + (1 - alpha_bar[t]) ** 0.5 * eps


def subtracts_the_variances(x_s, eps, s, t, alpha_bar):
    variance = (1 - alpha_bar[t]) - (1 - alpha_bar[s])
    return torch.sqrt(alpha_bar[t] / alpha_bar[s]) * x_s + variance**0.5 * eps


def subtracts_the_deviations(x_s, eps, s, t, alpha_bar):
    signal = torch.sqrt(alpha_bar[t] / alpha_bar[s])
    return signal * x_s + ((1 - alpha_bar[t]) ** 0.5 - signal * (1 - alpha_bar[s]) ** 0.5) * eps


def adds_a_variance(x_s, eps, s, t, alpha_bar):
    alpha = alpha_bar[t] / alpha_bar[s]
    return alpha**0.5 * x_s + (1 - alpha) * eps


def returns_the_rates(x_s, eps, s, t, alpha_bar):
    alpha = float(alpha_bar[t] / alpha_bar[s])
    return alpha**0.5, (1 - alpha) ** 0.5


# --- 01.4

def snr_of(schedule):
    return schedule.snr(torch.arange(schedule.T))


def last_above(schedule, snr):
    return int((snr_of(schedule) >= snr).sum()) - 1


def counts_levels(schedule, snr):
    return int((snr_of(schedule) >= snr).sum()) + 1


def looks_at_alpha_bar(schedule, snr):
    return next(t for t in range(schedule.T) if schedule.alpha_bar[t] < snr)


def compares_deviations(schedule, snr):
    return next(t for t in range(schedule.T) if schedule.sigma[t] > 1 / snr)


def turns_it_upside_down(schedule, snr):
    return next(t for t in range(schedule.T) if 1 / schedule.snr(t) > snr)


def looks_above(schedule, snr):
    return int((snr_of(schedule) > snr).int().argmax())


def returns_the_mask(schedule, snr):
    return snr_of(schedule) < snr


WRONG = {
    "01.1": [
        (forgets_the_root_of_beta, "beta is the variance of the added noise"),
        (shrinks_by_the_variance, "shrinks too much"),
        (has_no_roots, "Both factors are variances"),
        (only_adds, "the variance grows with every step"),
        (swaps_the_rates, "Signal and noise are swapped"),
        (lets_the_rates_sum_to_one, "do not belong together"),
        (works_in_place, "changes its arguments"),
        (averages, "Expected a tensor of shape (2, 2), got a number"),
        (0.8, "Expected a function"),
    ],
    "01.2": [
        (lines_up_with_the_columns, "wrong axis"),
        (forgets_the_root_of_the_noise, "not its standard deviation"),
        (mixes_variances, "take their roots"),
        (swaps_signal_and_noise, "at t = 0 nearly everything"),
        (takes_one_step_only, "what all steps up to t leave"),
        (counts_from_one, "Off by one"),
        (takes_the_first_t_for_all, "reshape it to (B, 1, 1, 1)"),
        (returns_the_noise_as_well, "got a tuple of 2"),
        (adds_an_axis, "got a tensor of shape (4, 4, 3, 5, 4)"),
    ],
    "01.3": [
        (starts_from_clean, "You treat x_s as clean"),
        (adds_all_the_noise_again, "is in x_s already"),
        (subtracts_the_variances, "the noise of x_s shrinks, too"),
        (subtracts_the_deviations, "not standard deviations"),
        (adds_a_variance, "Your factor of eps is a variance"),
        (returns_the_rates, "Expected a tensor of shape (3, 8, 8), got a tuple of 2"),
    ],
    "01.4": [
        (last_above, "One too few"),
        (counts_levels, "One too many"),
        (looks_at_alpha_bar, "where alpha_bar falls below snr"),
        (compares_deviations, "ratio of the standard deviations"),
        (turns_it_upside_down, "noise over signal"),
        (looks_above, "starts high and falls"),
        (returns_the_mask, "Expected a number, got a boolean tensor of shape (1000,)"),
    ],
}
